package bench

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"runtime/pprof"
	"slices"

	"github.com/tandem-moe/tandem/kernel"
	"github.com/tandem-moe/tandem/route"
	"github.com/tandem-moe/tandem/serve/deploy"
)

// ServeOptions say what Serve measures. The zero value of a field is its
// default.
type ServeOptions struct {
	Model *deploy.Model
	// Folder is where the model was opened, empty for the embedded one: nodes in
	// other processes open it again.
	Folder string
	// Attention, Experts, MicroBatches and Transport are the layout: 1, 1, 1 and
	// "inproc".
	Attention, Experts, MicroBatches int
	Transport                        string
	// Processes are transports, "shm" or "tcp", by which to join the same nodes as
	// processes of their own, measured in turns with the one process; none by
	// default. There is one attention node then. Node is the command that runs
	// ServeNode with the argument that follows it.
	Processes []string
	Node      []string
	// Wire is how rows travel; direct calls round as it does.
	Wire    route.Wire
	ISA     kernel.ISA
	Threads int // 0: all
	// Prompt and Output are a sequence's tokens: 128 and 64.
	Prompt, Output int
	// Sequences are the numbers of sequences to run at once: 1, 8 and 32.
	Sequences []int
	// Repeats is how often everything is measured after a start, in turns: 5. The
	// figures are medians of all starts' turns.
	Repeats int
	// Starts is how often everything is loaded and started: 1, and 2 with Processes.
	// By turns the one process loads first, and the processes do: which memory a
	// process gets decides up to a tenth of its speed, and who comes first gets other
	// memory than who comes next.
	Starts int
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

// ServeProgress is a turn: the same work done by everybody, in output tokens a
// second while all sequences decode. Repeats are those of all starts.
type ServeProgress struct {
	Repeat, Repeats, Sequences int
	// Engine is the engine's of one process; Processes those of the engines whose
	// nodes are processes, in the order of ServeOptions.
	Engine, Direct float64
	Processes      []float64
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
		{"starts", &o.Starts, 1 + min(1, len(o.Processes)), 1},
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
	return o.checkProcesses()
}

// checkProcesses refuses what is not measured with nodes as processes: the run's
// moments are one attention node's.
func (o *ServeOptions) checkProcesses() error {
	for _, transport := range o.Processes {
		switch {
		case transport != "shm" && transport != "tcp":
			return fmt.Errorf("processes joined by %q: want shm or tcp", transport)
		case o.Attention != 1:
			return fmt.Errorf("%d attention nodes as processes of their own: want 1", o.Attention)
		case len(o.Node) == 0:
			return errors.New("nodes as processes of their own: no command runs them")
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
	report := &ServeReport{options: o, Machine: ThisMachine(dev.ISA()), Threads: dev.Threads()}
	weights, err := o.compare(ctx, report, dev, pool)
	if err != nil {
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

// load loads the weights that the engines of this process and direct calls share.
// They go when nobody refers to them any more.
func (o *ServeOptions) load(ctx context.Context, pool *kernel.Pool) (*deploy.Weights, error) {
	options := o.deployment(o.Attention, slices.Max(o.Sequences))
	options.Progress = o.Loaded
	return deploy.LoadWeights(ctx, o.Model, options, pool)
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
	defer func() { err = errors.Join(err, e.close()) }()
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
