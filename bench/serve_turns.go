package bench

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"runtime"
	"slices"
	"strings"

	"github.com/tandem-moe/tandem/kernel"
	"github.com/tandem-moe/tandem/serve/deploy"
)

// contestant is one of those that do the same work in turns.
type contestant struct {
	layout    string // "one process", "processes" or "direct"
	transport string // between its nodes
	run       func(ctx context.Context, prompts [][]int32, output int) (*engineRun, error)
	close     func() error
}

// contestants are the engine in one process, attention and experts called
// directly, and the engines whose nodes are processes, in this order.
type contestants []contestant

const (
	onProcess = iota
	directCalls
	firstProcesses
)

func (c contestants) close() error {
	var errs []error
	for _, one := range c {
		errs = append(errs, one.close())
	}
	return errors.Join(errs...)
}

// start starts a deployment in this process.
func (o *ServeOptions) start(ctx context.Context, w *deploy.Weights, attention, sequences int) (*engine, error) {
	var err error
	n := &localNodes{observed: &observed{}}
	options := o.deployment(attention, sequences)
	options.Observe = n.observe
	options.Device = func(node string, pool *kernel.Pool) (kernel.ExpertDevice, error) {
		dev, err := kernel.NewCPU(kernel.CPUOptions{ISA: o.ISA, Pool: pool, Threads: o.Threads})
		if err != nil || !strings.HasPrefix(node, "attention-") {
			return dev, err
		}
		return n.hold(dev), nil
	}
	n.local = labelled(ctx, "engine", func(ctx context.Context) (l *deploy.Local) {
		l, err = deploy.StartLocal(ctx, o.Model, options, w)
		return l
	})
	if err != nil {
		return nil, err
	}
	n.stats = n.local.Stats
	return &engine{front: n.local.Engine, nodes: n}, nil
}

// startAll starts the contestants, and returns the weights of those in this process;
// what has started when one fails is closed. By turns those of this process and the
// processes are the first to load.
func (o *ServeOptions) startAll(ctx context.Context, start int, dev kernel.Device, pool *kernel.Pool) (contestants, *deploy.Weights, error) {
	var here, there contestants
	var w *deploy.Weights
	order := []func() error{
		func() (err error) {
			if w, err = o.load(ctx, pool); err == nil {
				here, err = o.startHere(ctx, w, dev)
			}
			return err
		},
		func() (err error) { there, err = o.startThere(ctx); return err },
	}
	if start%2 == 1 {
		slices.Reverse(order)
	}
	for _, do := range order {
		if err := do(); err != nil {
			return nil, nil, errors.Join(err, here.close(), there.close())
		}
	}
	return slices.Concat(here, there), w, nil
}

// startHere starts those of this process. Where one fails it returns those before.
func (o *ServeOptions) startHere(ctx context.Context, w *deploy.Weights, dev kernel.Device) (all contestants, err error) {
	most := slices.Max(o.Sequences)
	e, err := o.start(ctx, w, o.Attention, most)
	if err != nil {
		return nil, err
	}
	all = append(all, contestant{"one process", cmp.Or(o.Transport, "inproc"), e.run, e.close})
	d, err := newPlain(o.Model, o.deployment(o.Attention, most), w, dev, most, o.longest(), maxRows)
	if err != nil {
		return all, err
	}
	return append(all, contestant{"direct", "", d.engineRun, func() error {
		d.free()
		return nil
	}}), nil
}

// startThere starts those whose nodes are processes. Where one fails it returns
// those before.
func (o *ServeOptions) startThere(ctx context.Context) (all contestants, err error) {
	for _, transport := range o.Processes {
		e, err := o.startProcesses(ctx, transport, slices.Max(o.Sequences))
		if err != nil {
			return all, err
		}
		all = append(all, contestant{"processes", transport, e.run, e.close})
	}
	return all, nil
}

// turn is the same work done by all contestants, in their order.
type turn []timed

// timed is a run with its tokens a second.
type timed struct {
	*engineRun
	promptRate, decodeRate float64
}

// compare measures the contestants in turns, after each of the starts. It returns
// the last one's weights.
func (o *ServeOptions) compare(ctx context.Context, report *ServeReport, dev kernel.Device, pool *kernel.Pool) (w *deploy.Weights, err error) {
	turns := make([][]turn, len(o.Sequences))
	var names contestants
	for start := range o.Starts {
		runtime.GC() // has the last start's weights unmapped, which nothing refers to
		if names, w, err = o.compareOnce(ctx, start, turns, dev, pool); err != nil {
			return nil, err
		}
	}
	for i, n := range o.Sequences {
		report.Rows = append(report.Rows, report.rows(names, n, turns[i])...)
	}
	return w, nil
}

// compareOnce starts the contestants, adds to turns, and ends them. It returns what
// they are called, and the weights.
func (o *ServeOptions) compareOnce(ctx context.Context, start int, turns [][]turn, dev kernel.Device, pool *kernel.Pool) (names contestants, w *deploy.Weights, err error) {
	all, w, err := o.startAll(ctx, start, dev, pool)
	if err != nil {
		return nil, nil, err
	}
	defer func() { err = errors.Join(err, all.close()) }()
	for repeat := range o.Repeats + 1 {
		for i, n := range o.Sequences {
			t, err := o.measure(ctx, all, start, repeat, n)
			if err != nil {
				return nil, nil, fmt.Errorf("%d sequences: %w", n, err)
			}
			if repeat == 0 { // warms up
				continue
			}
			turns[i] = append(turns[i], t)
			if o.Progress != nil {
				o.Progress(t.progress(start*o.Repeats+repeat, o.Starts*o.Repeats, n))
			}
		}
	}
	for _, c := range all {
		names = append(names, contestant{layout: c.layout, transport: c.transport})
	}
	return names, w, nil
}

func (t turn) progress(repeat, repeats, sequences int) ServeProgress {
	p := ServeProgress{Repeat: repeat, Repeats: repeats, Sequences: sequences, Engine: t[onProcess].decodeRate, Direct: t[directCalls].decodeRate}
	for _, run := range t[firstProcesses:] {
		p.Processes = append(p.Processes, run.decodeRate)
	}
	return p
}

// measure has all do the same: n sequences. Each time another one begins; the turn
// that warms up is shorter. All must give the same tokens.
func (o *ServeOptions) measure(ctx context.Context, all contestants, start, repeat, n int) (turn, error) {
	prompts := o.prompts(start*(o.Repeats+1)+repeat, n)
	output := o.Output
	if repeat == 0 {
		output = min(output, 1+n)
	}
	t := make(turn, len(all))
	for i := range all {
		i := (i + repeat) % len(all)
		var err error
		if t[i].engineRun, err = all[i].run(ctx, prompts, output); err != nil {
			return nil, fmt.Errorf("%s: %w", all[i].name(), err)
		}
	}
	for i := range t {
		if err := t[i].same(&t[directCalls].trace); err != nil {
			return nil, fmt.Errorf("%s: %w", all[i].name(), err)
		}
		if repeat == 0 {
			continue
		}
		if err := t[i].rate(o.Prompt * n); err != nil {
			return nil, err
		}
	}
	return t, nil
}

func (c *contestant) name() string { return strings.TrimSpace(c.layout + " " + c.transport) }

// cpuPerToken is the processor time of a token of a phase.
func (t *timed) cpuPerToken(phase string, promptTokens int) float64 {
	if phase == "prompt" {
		return t.prompt.cpu / float64(promptTokens)
	}
	from, to := t.decoding()
	return t.decode.cpu / (t.decodeRate * (to - from).Seconds())
}

func (t *timed) rate(promptTokens int) (err error) {
	t.promptRate, t.decodeRate, err = t.rates(promptTokens)
	return err
}
