package main

import (
	"context"
	"fmt"
	"log/slog"
	"net"
	"os"
	"time"

	"github.com/tandem-moe/tandem/api"
	"github.com/tandem-moe/tandem/serve"
	"github.com/tandem-moe/tandem/serve/deploy"
	"github.com/tandem-moe/tandem/telemetry"
)

// ServeCmd serves a model over HTTP.
type ServeCmd struct {
	modelFlags
	layoutFlags
	sizeFlags
	Listen          string        `help:"Where the API listens." default:":8080" env:"TANDEM_LISTEN"`
	ServedModelName []string      `help:"Name of the model in the API; default: the folder's name." placeholder:"NAME"`
	APIKey          []string      `help:"Key that clients must send." name:"api-key" env:"TANDEM_API_KEY" placeholder:"KEY"`
	RequestTimeout  time.Duration `help:"Longest that a request may take." default:"10m"`
	Grace           time.Duration `help:"Time for running requests to finish on SIGTERM." default:"30s"`
	Control         string        `help:"Serve with nodes in other processes, which join at this address." placeholder:"HOST:PORT"`
}

// Run serves until ctx ends, and then drains.
func (c *ServeCmd) Run(ctx context.Context, log *slog.Logger) error {
	m, err := deploy.OpenModel(c.Model)
	if err != nil {
		return err
	}
	defer m.Checkpoint.Close()
	text, err := openText(m)
	if err != nil {
		return err
	}
	listener, err := net.Listen("tcp", c.Listen)
	if err != nil {
		return fmt.Errorf("listening for the API: %w", err)
	}
	defer listener.Close()
	options := c.options(log)
	if c.Control != "" {
		return c.front(ctx, log, m, text, listener, options)
	}
	return c.local(ctx, log, m, text, listener, options)
}

// local serves with all nodes in this process.
func (c *ServeCmd) local(ctx context.Context, log *slog.Logger, m *deploy.Model, text *text, l net.Listener, o deploy.Options) error {
	bar := newProgress(os.Stderr, "loading "+m.Name)
	o.Progress = bar.report
	local, err := deploy.StartLocal(ctx, m, o, nil)
	bar.done()
	if err != nil {
		return err
	}
	defer local.Close()
	printNodes(os.Stderr, local.Nodes())
	fmt.Fprintf(os.Stderr, "KV cache: %d tokens (%s)\n", local.CacheTokens(), c.kvShare())
	return c.api(ctx, log, m, text, l, local.Engine, local.Missing, func() []serve.NodeStats { return local.Stats() })
}

// front serves with nodes in other processes.
func (c *ServeCmd) front(ctx context.Context, log *slog.Logger, m *deploy.Model, text *text, l net.Listener, o deploy.Options) error {
	control, err := deploy.NewControl(m, o, version)
	if err != nil {
		return err
	}
	nodes, err := net.Listen("tcp", c.Control)
	if err != nil {
		return fmt.Errorf("listening for nodes: %w", err)
	}
	// Nodes are needed until the last request has drained.
	inner, cancel := context.WithCancel(context.WithoutCancel(ctx))
	failed := make(chan error, 1)
	go func() { failed <- control.Serve(inner, nodes) }()
	go watchNodes(inner, os.Stderr, control.Members)
	log.Info("waiting for nodes", "control", nodes.Addr().String(), "experts", c.Experts)
	err = c.api(ctx, log, m, text, l, control.Engine, control.Missing, nil)
	cancel()
	if served := <-failed; err == nil {
		err = served
	}
	return err
}

// api answers HTTP until ctx ends.
func (c *ServeCmd) api(ctx context.Context, log *slog.Logger, m *deploy.Model, t *text, l net.Listener,
	engine *serve.FrontEnd, missing func() string, stats func() []serve.NodeStats) error {
	names := c.ServedModelName
	if len(names) == 0 {
		names = []string{m.Name}
	}
	metrics := telemetry.New(names[0], &source{engine: engine, stats: stats})
	server := api.NewServer(api.Config{
		Models: names, Created: time.Now(), Fingerprint: m.Hash, Version: version,
		Service: t.service(engine, metrics), Template: t.template(), MapDeveloper: true, Defaults: t.defaults,
		Ready: func() error {
			if reason := missing(); reason != "" {
				return &serve.UnavailableError{Reason: reason}
			}
			return nil
		},
		Metrics: metrics.Handler(), APIKeys: c.APIKey, Log: log,
		Limits: api.Limits{Request: c.RequestTimeout, Grace: c.Grace},
	})
	log.Info("serving", "model", names[0], "address", l.Addr().String())
	return server.Serve(ctx, l)
}
