package main

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"time"

	"github.com/alecthomas/kong"
	"github.com/jedib0t/go-pretty/v6/table"

	"github.com/tandem-moe/tandem/api"
	"github.com/tandem-moe/tandem/internal/hostport"
	"github.com/tandem-moe/tandem/serve"
	"github.com/tandem-moe/tandem/serve/deploy"
	"github.com/tandem-moe/tandem/serve/frontend"
	"github.com/tandem-moe/tandem/serve/node"
	"github.com/tandem-moe/tandem/telemetry"
)

// inProcess is the group of the flags that say what the nodes of this process
// are like.
const inProcess = "Nodes in this process (without --control):"

// ServeCmd serves a model over HTTP.
type ServeCmd struct {
	modelArg        `group:"Model:"`
	ServedModelName []string `help:"Names of the model in the API. Default: the folder's name." placeholder:"NAME" group:"Model:"`
	limitFlags      `group:"Model:"`

	listenFlags    `group:"API:"`
	APIKey         apiKeys  `help:"Keys, one of which clients must send; white space around a key is not part of it. Default: none is needed." name:"api-key" env:"TANDEM_API_KEY" placeholder:"KEY" group:"API:"`
	MaxWaiting     count    `help:"Requests that may wait; further ones get 429." default:"1024" group:"API:"`
	RequestTimeout duration `help:"Longest that a request may take; 0: no limit." default:"10m" group:"API:"`
	Grace          duration `help:"On SIGTERM, longest that running requests may take; 0: they end at once." default:"30s" group:"API:"`
	httpFlags      `group:"API:"`
	apiTLSFlags    `group:"API:"`

	Experts             count `help:"Expert nodes: each has its share of the experts of every layer." default:"1" group:"Layout:"`
	MicroBatches        count `help:"Micro-batches in flight per attention node. Default: 1 where all nodes are on this host, in one process or by --control at a loopback address; else 2." placeholder:"N" group:"Layout:"`
	MaxNumBatchedTokens count `help:"Rows of a micro-batch in one step; longer prompts are computed in chunks." default:"512" group:"Layout:"`
	wireFlags           `group:"Layout:"`
	Control             string `help:"Run no nodes in this process: admit those that \"tandem node\" runs, at this address." placeholder:"HOST:PORT" group:"Layout:"`
	Insecure            bool   `help:"Admit nodes of other hosts without --tls: whoever reaches --control may join, read prompts and answer." group:"Layout:"`

	tlsFlags `group:"Layout:"`

	Attention count `help:"Attention nodes." default:"1" group:"Nodes in this process (without --control):"`
	nodeFlags `group:"Nodes in this process (without --control):"`
}

// Help is the end of the command's help.
func (*ServeCmd) Help() string {
	return `In one process:

    tandem serve
    curl -s localhost:8080/v1/completions -H 'Content-Type: application/json' \
      -d '{"model": "gopher", "prompt": "func main() {\n", "max_tokens": 48}'

A model of your own, for everybody who has the key:

    tandem serve DIR --host 0.0.0.0 --port 8000 --api-key KEY

In several processes, started in any order, here on one machine:

    tandem serve --model DIR --control 127.0.0.1:7000 --experts 2
    tandem node  --model DIR --join 127.0.0.1:7000 --role attention
    tandem node  --model DIR --join 127.0.0.1:7000 --role expert
    tandem node  --model DIR --join 127.0.0.1:7000 --role expert

SIGTERM drains: running requests finish, new ones get 503. A second signal ends
the process at once.`
}

// Validate refuses flags that would change nothing, and an API that was to need
// a key and has none.
func (c *ServeCmd) Validate(command *kong.Context) error {
	if err := errors.Join(c.APIKey.check(), c.listenFlags.check(command), c.httpFlags.check(), c.pick(command),
		c.checkControl()); err != nil {
		return err
	}
	if c.Control == "" {
		return nil
	}
	for _, p := range command.Path {
		if f := p.Flag; f != nil && f.Group != nil && f.Group.Key == inProcess {
			return fmt.Errorf("--%s: with --control, nodes run in other processes: start as many as you like by \"tandem node\", which takes their flags", f.Name)
		}
	}
	return nil
}

// checkControl refuses a control port that is open to others by mistake, and flags
// of a control port where there is none.
func (c *ServeCmd) checkControl() error {
	_, secure := c.files()
	switch {
	case c.Control == "" && secure:
		return errors.New("--tls: it secures the connections with nodes in other processes: it needs --control")
	case c.Control == "" && c.Insecure:
		return errors.New("--insecure: it admits nodes in other processes without TLS: it needs --control")
	case c.Control == "":
		return nil
	}
	if _, _, err := hostport.Split(c.Control); err != nil {
		return fmt.Errorf("--control %q: %w; want HOST:PORT, as 127.0.0.1:7000", c.Control, err)
	}
	switch {
	case c.Insecure && secure:
		return errors.New("--insecure: the cluster is secured by --tls: leave one of them out")
	case !c.Insecure && !secure && !loopback(c.Control):
		return fmt.Errorf("--control %s: whoever reaches this address could join without TLS, read prompts and answer: give --tls DIR (\"tandem certs\" makes it), or --insecure where everybody on the network may", c.Control)
	}
	return nil
}

// options are the flags of a deployment.
func (c *ServeCmd) options(log *slog.Logger) deploy.Options {
	o := deploy.Options{
		Log: log, Experts: int(c.Experts), MicroBatches: int(c.MicroBatches),
		MaxBatchedTokens: int(c.MaxNumBatchedTokens), MaxWaiting: int(c.MaxWaiting),
	}
	c.limitFlags.addTo(&o)
	c.wireFlags.addTo(&o)
	if c.Control == "" {
		c.nodeFlags.addTo(&o)
		o.Attention = int(c.Attention)
	} else if o.MicroBatches == 0 {
		o.MicroBatches = microBatchesFor(c.Control)
	}
	return o
}

// microBatchesFor is the default for nodes that join at an address: two let
// attention and experts work at the same time. Nodes that join at a loopback address
// share this host's cores, where two only halve the batches: SMALL with 32
// sequences took 133 ms a step instead of 92.
func microBatchesFor(control string) int {
	if loopback(control) {
		return 1
	}
	return 2
}

// loopback says whether an address can be reached from this host alone.
func loopback(addr string) bool {
	host, _, err := net.SplitHostPort(addr)
	return err == nil && hostport.IsLoopback(host)
}

// Run serves until ctx ends, and then drains.
func (c *ServeCmd) Run(ctx context.Context, log *slog.Logger, s *screen) error {
	outliveLogReaders()
	identity, err := c.identity(log)
	if err != nil {
		return err
	}
	m, err := deploy.OpenModel(c.Model)
	if err != nil {
		return err
	}
	defer m.Checkpoint.Close()
	text, err := openText(m)
	if err != nil {
		return err
	}
	text.tell(log)
	listener, err := c.open()
	if err != nil {
		return err
	}
	defer listener.Close()
	if listener, err = c.secure(listener, log); err != nil {
		return err
	}
	if len(c.APIKey) == 0 && !loopback(listener.Addr().String()) {
		log.Warn("whoever reaches this address may use the API: --api-key makes it ask for a key", "listens", listener.Addr().String())
	}
	options := c.options(log)
	options.TLS, options.API = identity, urlOf(c.scheme(), listener.Addr())
	if c.Control != "" {
		return c.front(ctx, s, m, text, listener, options)
	}
	return c.local(ctx, s, m, text, listener, options)
}

// local serves with all nodes in this process.
func (c *ServeCmd) local(ctx context.Context, s *screen, m *deploy.Model, text *text, l net.Listener,
	o deploy.Options) error {
	bar := s.progress("loading " + m.Name)
	o.Progress = bar.report
	local, err := deploy.StartLocal(ctx, m, o, nil)
	bar.done()
	if err != nil {
		return err
	}
	defer local.Close()
	var rows []table.Row
	for _, n := range local.Nodes() {
		rows = append(rows, table.Row{n.Node, n.Role, n.Device, n.Holds})
	}
	s.nodes(table.Row{"node", "part", "device", "holds"}, rows)
	s.cache(local.CacheTokens(), local.CacheFrom())
	return c.api(ctx, s.log, m, text, l, local.Engine, local.Missing, nil, func() []node.Stats { return local.Stats() })
}

// front serves with nodes in other processes.
func (c *ServeCmd) front(ctx context.Context, s *screen, m *deploy.Model, text *text, l net.Listener,
	o deploy.Options) error {
	control, err := deploy.NewControl(m, o, version)
	if err != nil {
		return err
	}
	nodes, err := net.Listen("tcp", c.Control)
	if err != nil {
		return fmt.Errorf("listening for nodes (--control): %w", err)
	}
	ctx, fail := context.WithCancelCause(ctx)
	defer fail(nil)
	// Nodes are needed until the last request has drained.
	inner, cancel := context.WithCancel(context.WithoutCancel(ctx))
	ended := make(chan error, 1)
	go func() {
		err := control.Serve(inner, nodes)
		fail(err)
		ended <- err
	}()
	s.log.Info("admitting nodes", "control", nodes.Addr().String(), "experts", o.Experts, "tls", o.TLS != nil)
	defer inBackground(inner, func(ctx context.Context) { watchNodes(ctx, s, control.Members) })()
	err = c.api(ctx, s.log, m, text, l, control.Engine, control.Missing, control.Failing, nil)
	cancel()
	if served := <-ended; err == nil {
		err = served
	}
	return err
}

// api answers HTTP until ctx ends.
func (c *ServeCmd) api(ctx context.Context, log *slog.Logger, m *deploy.Model, t *text, l net.Listener,
	engine *frontend.FrontEnd, missing, failing func() string, stats func() []node.Stats) error {
	names := c.ServedModelName
	if len(names) == 0 {
		names = []string{m.Name}
	}
	options := c.options(log)
	numerics := options.Numerics()
	metrics := telemetry.New(names[0], &source{engine: engine, stats: stats})
	exported, end, err := c.metrics(log, metrics.Handler())
	if err != nil {
		return err
	}
	defer end()
	defer inBackground(ctx, func(ctx context.Context) { metrics.LogThroughput(ctx, log, throughputEvery) })()
	config := c.apiConfig()
	config.Models, config.Log, config.Metrics = names, log, exported
	config.Fingerprint = func() string { return m.Fingerprint(numerics) }
	config.Service, config.Template, config.Defaults = t.service(engine, metrics), t.template(), t.defaults
	config.Failing = failing
	config.Ready = func() error {
		if reason := missing(); reason != "" {
			return &serve.UnavailableError{Reason: reason}
		}
		return nil
	}
	defer inBackground(ctx, func(ctx context.Context) {
		announce(ctx, log, urlOf(c.scheme(), l.Addr()), missing, "model", names[0], "listens", l.Addr().String(),
			"numerics", numerics)
	})()
	defer context.AfterFunc(ctx, func() {
		log.Info("draining: requests that run may finish; a second signal ends them", "grace", c.Grace.String())
	})()
	return api.NewServer(config).Serve(ctx, l)
}

// apiConfig is what the flags say of the API.
func (c *ServeCmd) apiConfig() api.Config {
	return api.Config{
		Created: time.Now(), Version: version, MapDeveloper: true, APIKeys: c.APIKey,
		Strict: c.Strict, AllowOrigins: c.origins(), NoAccessLog: c.NoAccessLog,
		Limits: api.Limits{Request: c.RequestTimeout.orElse(forever), Grace: c.Grace.orElse(1),
			Stops: int(c.MaxStopStrings)},
	}
}
