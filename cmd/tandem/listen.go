package main

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"strconv"
	"time"

	"github.com/alecthomas/kong"
)

// listenFlags say where the API listens. --host and --port are vLLM's names.
type listenFlags struct {
	Listen string  `help:"Where the API listens. It is for programs of this machine alone unless you say otherwise: 0.0.0.0:8080 is for everybody who reaches it; give --api-key then." default:"127.0.0.1:8080" placeholder:"HOST:PORT" env:"TANDEM_LISTEN"`
	Host   string  `help:"The host of --listen alone: 0.0.0.0 is every address of this machine." placeholder:"HOST"`
	Port   *uint16 `help:"The port of --listen alone; 0 is a free one." placeholder:"PORT"`
}

// check refuses two answers to one question.
func (f *listenFlags) check(command *kong.Context) error {
	for _, name := range []string{"host", "port"} {
		if given(command, "listen") && given(command, name) {
			return fmt.Errorf("--listen and --%s: give --listen HOST:PORT, or --host and --port", name)
		}
	}
	return nil
}

// address is where to listen. --host and --port replace their part of --listen,
// which may be the environment's.
func (f *listenFlags) address() (string, error) {
	host, port, err := net.SplitHostPort(f.Listen)
	if f.Host == "" && f.Port == nil || err != nil {
		return f.Listen, err
	}
	if f.Host != "" {
		host = f.Host
	}
	if f.Port != nil {
		port = strconv.Itoa(int(*f.Port))
	}
	return net.JoinHostPort(host, port), nil
}

// open listens.
func (f *listenFlags) open() (net.Listener, error) {
	address, err := f.address()
	if err != nil {
		return nil, fmt.Errorf("listening for the API (--listen): %w", err)
	}
	l, err := net.Listen("tcp", address)
	if err != nil {
		return nil, fmt.Errorf("listening for the API (--listen): %w", err)
	}
	return l, nil
}

// urlOf is a URL by which programs of this machine reach a listener.
func urlOf(scheme string, l net.Addr) string {
	host, port, err := net.SplitHostPort(l.String())
	if ip := net.ParseIP(host); err != nil || ip != nil && ip.IsUnspecified() {
		host = "127.0.0.1"
	}
	return scheme + "://" + net.JoinHostPort(host, port)
}

// readyPause is how often a server looks whether it has somebody to serve with.
const readyPause = 100 * time.Millisecond

// announce says that the server serves, with its URL, once nothing is missing, and
// again when that was so in between. It ends with ctx.
func announce(ctx context.Context, log *slog.Logger, url string, missing func() string, more ...any) {
	if missing() != "" {
		log.Info("listening, and nodes are missing: requests get 503 until they are there", "url", url)
	}
	tick := time.NewTicker(readyPause)
	defer tick.Stop()
	for serving := false; ; {
		if now := missing() == ""; now != serving {
			serving = now
			if serving {
				log.Info("serving", append([]any{"url", url}, more...)...)
			}
		}
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
		}
	}
}

// given says whether a flag is on the command line itself.
func given(command *kong.Context, name string) bool {
	for _, p := range command.Path {
		if p.Flag != nil && p.Flag.Name == name {
			return true
		}
	}
	return false
}

// modelArg names a model by an argument too, as "vllm serve" does.
type modelArg struct {
	modelFlags
	Folder string `arg:"" optional:"" help:"Hugging Face folder, as --model."`
}

// pick lets the argument be the model.
func (m *modelArg) pick(command *kong.Context) error {
	if m.Folder == "" {
		return nil
	}
	if given(command, "model") && m.Model != m.Folder {
		return errors.New("the model is named twice: --model " + strconv.Quote(m.Model) + ", and " +
			strconv.Quote(m.Folder))
	}
	m.Model = m.Folder
	return nil
}
