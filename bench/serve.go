package bench

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"runtime/pprof"
	"slices"
	"strings"

	"github.com/tandem-moe/tandem/kernel"
	"github.com/tandem-moe/tandem/route"
	"github.com/tandem-moe/tandem/serve/deploy"
)

// ServeOptions say what Serve measures. The zero value of a field is its
// default.
type ServeOptions struct {
	Model *deploy.Model
	// Attention, Experts, MicroBatches and Transport are the layout: 1, 1, 1 and
	// "inproc".
	Attention, Experts, MicroBatches int
	Transport                        string
	// Wire is how rows travel; direct calls round as it does.
	Wire    route.Wire
	ISA     kernel.ISA
	Threads int // 0: all
	// Prompt and Output are a sequence's tokens: 128 and 64.
	Prompt, Output int
	// Sequences are the numbers of sequences to run at once: 1, 8 and 32.
	Sequences []int
	// Repeats is how often everything is measured, in turns: 5. The figures are
	// medians.
	Repeats int
	// Aggregation are numbers of attention nodes to measure aggregation with,
	// equally loaded; none by default.
	Aggregation []int
	// Seed decides the prompts.
	Seed uint64
	// Progress, where it is set, is told of every measurement.
	Progress func(ServeProgress)
	// Loaded is told how much of the weights has been loaded, in bytes.
	Loaded func(done, total int64)
}

// ServeProgress is one measurement of the engine and of direct calls, in output
// tokens a second while all sequences decode.
type ServeProgress struct {
	Repeat, Repeats, Sequences int
	Engine, Direct             float64
}

const (
	// maxRows are the rows of a step, pageTokens those of a page: the defaults of
	// a deployment.
	maxRows    = 512
	pageTokens = kernel.KVBlock
	// aggregationSequences is how many each attention node has where aggregation
	// is measured.
	aggregationSequences = 8
)

// Serve measures an engine of a layout, and attention and experts called
// directly, in turns: the same prompts, the same tokens, weights that both
// share. It fails where their output differs by a token.
func Serve(ctx context.Context, o ServeOptions) (*ServeReport, error) {
	if err := o.fill(); err != nil {
		return nil, fmt.Errorf("bench serve: %w", err)
	}
	report, err := o.serve(ctx)
	if err != nil {
		return nil, fmt.Errorf("bench serve: %w", err)
	}
	return report, nil
}

// fill puts defaults in and refuses what cannot be measured. What is wrong with
// the layout, its deployment says.
func (o *ServeOptions) fill() error {
	for _, d := range []struct {
		name            string
		value           *int
		preset, minimum int
	}{
		{"attention", &o.Attention, 1, 1}, {"experts", &o.Experts, 1, 1}, {"micro-batches", &o.MicroBatches, 1, 1},
		{"prompt", &o.Prompt, 128, 2}, {"output", &o.Output, 64, 2}, {"repeats", &o.Repeats, 5, 1},
	} {
		if *d.value == 0 {
			*d.value = d.preset
		}
		if *d.value < d.minimum {
			return fmt.Errorf("%s is %d, the least is %d", d.name, *d.value, d.minimum)
		}
	}
	if len(o.Sequences) == 0 {
		o.Sequences = []int{1, 8, 32}
	}
	for _, n := range slices.Concat(o.Sequences, o.Aggregation) {
		if n < 1 || n > maxRows {
			return fmt.Errorf("%d sequences or attention nodes: want 1 to %d", n, maxRows)
		}
	}
	return nil
}

func (o *ServeOptions) serve(ctx context.Context) (*ServeReport, error) {
	pool := labelled(ctx, "direct", func(context.Context) *kernel.Pool { return kernel.NewPool(o.Threads) })
	defer pool.Close()
	dev, err := kernel.NewCPU(kernel.CPUOptions{ISA: o.ISA, Threads: o.Threads, Pool: pool})
	if err != nil {
		return nil, err
	}
	defer dev.Close()
	options := o.deployment(o.Attention, slices.Max(o.Sequences))
	options.Progress = o.Loaded
	weights, err := deploy.LoadWeights(ctx, o.Model, options, pool)
	if err != nil {
		return nil, err
	}
	report := &ServeReport{options: o, Machine: ThisMachine(dev.ISA()), Threads: dev.Threads()}
	if err := o.compare(ctx, report, weights, dev); err != nil {
		return nil, err
	}
	for _, nodes := range o.Aggregation {
		p, err := o.aggregation(ctx, weights, nodes)
		if err != nil {
			return nil, fmt.Errorf("%d attention nodes: %w", nodes, err)
		}
		report.Aggregation = append(report.Aggregation, report.aggregationRow(nodes, p))
	}
	return report, nil
}

// labelled marks what do computes, and the goroutines that it starts, for CPU
// profiles: side is "engine" or "direct".
func labelled[T any](ctx context.Context, side string, do func(context.Context) T) (result T) {
	pprof.Do(ctx, pprof.Labels("side", side), func(ctx context.Context) { result = do(ctx) })
	return result
}

// longest is the longest sequence, in tokens.
func (o *ServeOptions) longest() int { return o.Prompt + o.Output }

func pagesOf(tokens int) int { return (tokens + pageTokens - 1) / pageTokens }

// deployment is that of so many attention nodes, each with room for so many
// sequences and a plug.
func (o *ServeOptions) deployment(attention, sequences int) deploy.Options {
	pages := (sequences + 1) * pagesOf(o.longest())
	return deploy.Options{
		Attention: attention, Experts: o.Experts, MicroBatches: o.MicroBatches, Transport: o.Transport, Wire: o.Wire,
		MaxModelLen: o.longest(), MaxNumSeqs: sequences + 1, MaxBatchedTokens: maxRows, PageTokens: pageTokens,
		KVMemory: int64(attention) * int64(pages) * deploy.CacheBytes(o.Model, pageTokens), Threads: o.Threads,
	}
}

// start starts a deployment.
func (o *ServeOptions) start(ctx context.Context, w *deploy.Weights, attention, sequences int) (*engine, error) {
	var err error
	e := &engine{}
	options := o.deployment(attention, sequences)
	options.Observe = e.observe
	options.Device = func(node string, pool *kernel.Pool) (kernel.Device, error) {
		dev, err := kernel.NewCPU(kernel.CPUOptions{ISA: o.ISA, Pool: pool, Threads: o.Threads})
		if err != nil || !strings.HasPrefix(node, "attention-") {
			return dev, err
		}
		g := &gate{Device: dev}
		e.gates = append(e.gates, g)
		return g, nil
	}
	e.local = labelled(ctx, "engine", func(ctx context.Context) (l *deploy.Local) {
		l, err = deploy.StartLocal(ctx, o.Model, options, w)
		return l
	})
	return e, err
}

// compare measures engine and direct calls in turns.
func (o *ServeOptions) compare(ctx context.Context, report *ServeReport, w *deploy.Weights, dev kernel.Device) (err error) {
	most := slices.Max(o.Sequences)
	e, err := o.start(ctx, w, o.Attention, most)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, e.local.Close()) }()
	d, err := newDirect(o.Model, w, dev, most, o.longest(), maxRows)
	if err != nil {
		return err
	}
	defer d.free()
	d.Wire = o.Wire
	runs := make([][]pairOfRuns, len(o.Sequences))
	for repeat := range o.Repeats + 1 {
		for i, n := range o.Sequences {
			pair, err := o.measure(ctx, e, d, repeat, n)
			if err != nil {
				return fmt.Errorf("%d sequences: %w", n, err)
			}
			if repeat == 0 { // warms up
				continue
			}
			runs[i] = append(runs[i], pair)
			if o.Progress != nil {
				o.Progress(ServeProgress{repeat, o.Repeats, n, pair.engineDecode, pair.directDecode})
			}
		}
	}
	for i, n := range o.Sequences {
		report.Rows = append(report.Rows, report.rows(n, runs[i])...)
	}
	return nil
}

// pairOfRuns is the same work done by the engine and directly: tokens a second,
// and what the engine's nodes did.
type pairOfRuns struct {
	engine                     *engineRun
	directSteps                int
	enginePrompt, engineDecode float64
	directPrompt, directDecode float64
}

// measure runs n sequences both ways, in an order that alternates. The turn that
// warms up is shorter.
func (o *ServeOptions) measure(ctx context.Context, e *engine, d *direct, repeat, n int) (p pairOfRuns, err error) {
	prompts := o.prompts(repeat, n)
	output := o.Output
	if repeat == 0 {
		output = min(output, 1+n)
	}
	var plain trace
	engine := func() error {
		p.engine, err = e.run(ctx, prompts, output)
		return err
	}
	direct := func() error {
		return labelled(ctx, "direct", func(ctx context.Context) error {
			plain, err = d.run(ctx, prompts, output)
			return err
		})
	}
	order := []func() error{engine, direct}
	if repeat%2 == 1 {
		slices.Reverse(order)
	}
	for _, run := range order {
		if err := run(); err != nil {
			return p, err
		}
	}
	if err := p.engine.same(&plain); err != nil || repeat == 0 {
		return p, err
	}
	return p, p.rate(&plain, o.Prompt*n)
}

// rate sets the rates.
func (p *pairOfRuns) rate(plain *trace, promptTokens int) (err error) {
	p.directSteps = plain.steps
	if p.enginePrompt, p.engineDecode, err = p.engine.rates(promptTokens); err != nil {
		return err
	}
	p.directPrompt, p.directDecode, err = plain.rates(promptTokens)
	return err
}

// prompts are random tokens, others for each turn, so that no prefix is found in
// a cache.
func (o *ServeOptions) prompts(repeat, sequences int) [][]int32 {
	counter := splitMix(splitMix(o.Seed) + uint64(repeat)<<32 + uint64(sequences))
	list := make([][]int32, sequences)
	for s := range list {
		list[s] = make([]int32, o.Prompt)
		for i := range list[s] {
			counter++
			list[s][i] = int32(splitMix(counter) % uint64(o.Model.Spec.Vocabulary))
		}
	}
	return list
}

// aggregation measures how many messages an expert node joins where attention
// nodes are equally loaded.
func (o *ServeOptions) aggregation(ctx context.Context, w *deploy.Weights, nodes int) (median phase, err error) {
	e, err := o.start(ctx, w, nodes, aggregationSequences)
	if err != nil {
		return phase{}, err
	}
	defer func() { err = errors.Join(err, e.local.Close()) }()
	var phases []phase
	for repeat := range o.Repeats {
		r, err := e.run(ctx, o.prompts(repeat, nodes*aggregationSequences), o.Output)
		if err != nil {
			return phase{}, err
		}
		phases = append(phases, r.whole)
	}
	slices.SortFunc(phases, func(a, b phase) int { return cmp.Compare(a.aggregation, b.aggregation) })
	return phases[len(phases)/2], nil
}
