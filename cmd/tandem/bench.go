package main

import (
	"context"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"runtime/pprof"

	"github.com/tandem-moe/tandem/bench"
	"github.com/tandem-moe/tandem/kernel"
	"github.com/tandem-moe/tandem/model/checkpoint"
	"github.com/tandem-moe/tandem/route"
	"github.com/tandem-moe/tandem/serve/deploy"
)

// BenchCmd measures this machine, and Tandem on it.
type BenchCmd struct {
	Serve  BenchServeCmd  `cmd:"" help:"Tokens a second of a layout, beside attention and experts called directly."`
	Node   BenchNodeCmd   `cmd:"" help:"A node of bench serve, which starts it." name:"serve-node" hidden:""`
	Kernel BenchKernelCmd `cmd:"" help:"Each primitive's share of the roofline that the same run measures."`
	M2N    BenchM2NCmd    `cmd:"" help:"Many senders and many receivers, by m2n and by what others use, in turns." name:"m2n"`
	M2NEnd BenchM2NEndCmd `cmd:"" help:"One end of bench m2n, which starts it." name:"m2n-end" hidden:""`
}

// BenchServeCmd measures serving.
type BenchServeCmd struct {
	Model string `help:"Hugging Face folder; default: the embedded model." placeholder:"DIR" xor:"model"`
	Shape string `help:"Measure a model of random weights instead: tiny, small (0.9B) or medium (3.5B)." enum:",tiny,small,medium" default:"" xor:"model"`
	DType string `help:"Type of random weights: bf16 or f32." enum:"bf16,f32" default:"bf16" name:"dtype"`
	Dir   string `help:"Where models of random weights are kept; default: the user's cache." placeholder:"DIR"`

	Attention    int      `help:"Attention nodes." default:"1"`
	Experts      int      `help:"Expert nodes." default:"1"`
	MicroBatches int      `help:"Micro-batches in flight per attention node." default:"1"`
	Transport    string   `help:"What joins the nodes: inproc, shm or tcp." enum:"inproc,shm,tcp" default:"inproc"`
	Processes    []string `help:"Measure in turns also the same nodes as processes of their own, joined by: shm, tcp." enum:"shm,tcp" placeholder:"TRANSPORT"`
	wireFlags
	Threads     int        `help:"Threads of all nodes; default: all cores."`
	ISA         kernel.ISA `help:"Instruction set: auto, portable, avx2, avx512." default:"auto" name:"isa"`
	Prompt      int        `help:"Prompt tokens of a sequence." default:"128"`
	Output      int        `help:"Output tokens of a sequence." default:"64"`
	Sequences   []int      `help:"How many sequences run at once." default:"1,8,32"`
	Repeats     int        `help:"How often everything is measured after a start, in turns." default:"5"`
	Starts      int        `help:"How often everything is loaded and started, by turns with the one process and with the processes first. Default: 2 with --processes, else 1." placeholder:"N"`
	Aggregation []int      `help:"Numbers of equally loaded attention nodes to measure aggregation with." placeholder:"N"`
	JSON        bool       `help:"Print one JSON object a line." name:"json"`
	CPUProfile  string     `help:"Write a CPU profile; its samples are labelled side=engine and side=direct." placeholder:"FILE" name:"cpu-profile"`
}

// Help says how to read and use it.
func (*BenchServeCmd) Help() string {
	return `All do the same in turns, and must give the same tokens: an engine in this process,
attention and experts called directly, and with --processes the engine whose front
end is here and whose nodes are processes, joined as "tandem serve --control" joins
them. Ratios are medians of the turns' own. Which memory a process gets decides up
to a tenth of its speed: with more --starts that averages out. On a busy machine
compare by the tenth percentile of decode steps (P10), and by processor time.

    tandem bench serve --shape small --sequences 8,32 --processes shm
    tandem bench serve --shape small --processes shm,tcp --output 24 --json`
}

// Run measures, and prints a table or JSON.
func (c *BenchServeCmd) Run(ctx context.Context, log *slog.Logger, s *screen) (err error) {
	dir, remove, err := c.folder()
	if err != nil {
		return err
	}
	defer remove()
	m, err := deploy.OpenModel(dir)
	if err != nil {
		return err
	}
	defer m.Checkpoint.Close()
	self, err := os.Executable()
	if err != nil {
		return fmt.Errorf("bench serve: the program that its nodes run: %w", err)
	}
	stop, err := profile(c.CPUProfile)
	if err != nil {
		return err
	}
	defer stop()
	bar := s.progress("loading " + m.Name)
	report, err := bench.Serve(ctx, bench.ServeOptions{
		Model: m, Folder: dir, Processes: c.Processes, Node: []string{self, "bench", "serve-node"},
		Attention: c.Attention, Experts: c.Experts, MicroBatches: c.MicroBatches, Transport: c.Transport,
		Wire: route.Wire{Rows: c.Wire, Combine: c.Combine},
		ISA:  c.ISA, Threads: c.Threads, Prompt: c.Prompt, Output: c.Output, Sequences: c.Sequences, Repeats: c.Repeats,
		Starts:      c.Starts,
		Aggregation: c.Aggregation, Loaded: bar.report,
		Progress: func(p bench.ServeProgress) {
			bar.done()
			log.Info("measured", "repeat", fmt.Sprintf("%d/%d", p.Repeat, p.Repeats), "sequences", p.Sequences,
				"tokens/s", int(p.Engine), "direct", int(p.Direct), "ratio", fmt.Sprintf("%.3f", p.Engine/p.Direct),
				"processes", p.Processes)
		},
	})
	bar.done()
	if err != nil {
		return err
	}
	if c.JSON {
		return report.WriteJSON(os.Stdout)
	}
	report.WriteTable(os.Stdout)
	return nil
}

// BenchNodeCmd is a node of its own process, which BenchServeCmd starts.
type BenchNodeCmd struct {
	Spec string `arg:"" help:"Which node it is."`
}

// Run serves until its input ends.
func (c *BenchNodeCmd) Run(ctx context.Context, log *slog.Logger) error {
	return bench.ServeNode(ctx, c.Spec, os.Stdin, os.Stdout, log)
}

// folder is that of the model to measure, made where it has to be. A model in a
// temporary folder goes with the run.
func (c *BenchServeCmd) folder() (dir string, remove func(), err error) {
	remove = func() {}
	if c.Shape == "" {
		return c.Model, remove, nil
	}
	shape, err := bench.ShapeOf(c.Shape)
	if err != nil {
		return "", nil, err
	}
	parent := c.Dir
	if parent == "" {
		if parent, remove, err = cacheFolder(); err != nil {
			return "", nil, err
		}
	}
	dir = filepath.Join(parent, c.Shape+"-"+c.DType)
	dtype := map[string]checkpoint.DType{"bf16": checkpoint.BF16, "f32": checkpoint.F32}[c.DType]
	if err := bench.WriteModel(dir, shape, dtype, 1); err != nil {
		remove()
		return "", nil, err
	}
	return dir, remove, nil
}

// cacheFolder is in the user's cache, and a temporary one where there is none.
func cacheFolder() (dir string, remove func(), err error) {
	if dir, err = os.UserCacheDir(); err == nil {
		return filepath.Join(dir, "tandem", "bench"), func() {}, nil
	}
	if dir, err = os.MkdirTemp("", "tandem-bench-"); err != nil {
		return "", nil, fmt.Errorf("folder for a model of random weights: %w", err)
	}
	return dir, func() { _ = os.RemoveAll(dir) }, nil
}

// profile writes a CPU profile until it is stopped, where a file is named.
func profile(path string) (stop func(), err error) {
	if path == "" {
		return func() {}, nil
	}
	f, err := os.Create(path)
	if err != nil {
		return nil, fmt.Errorf("CPU profile: %w", err)
	}
	if err := pprof.StartCPUProfile(f); err != nil {
		return nil, fmt.Errorf("CPU profile: %w", err)
	}
	return func() {
		pprof.StopCPUProfile()
		_ = f.Close()
	}, nil
}

// BenchKernelCmd measures primitives.
type BenchKernelCmd struct {
	ISA     kernel.ISA `help:"Instruction set: auto, portable, avx2, avx512." default:"auto" name:"isa"`
	Threads int        `help:"Threads; default: all cores."`
	Repeats int        `help:"Turns. In each, every operation is measured 5 times and the limits 11 times, and the best count." default:"7"`
	Memory  bytes      `help:"Memory that operations stream through, more than the caches hold." default:"256MiB"`
	JSON    bool       `help:"Print a JSON array." name:"json"`
}

// Run measures, and prints a table or JSON.
func (c *BenchKernelCmd) Run(ctx context.Context) error {
	rows, err := bench.Kernel(ctx, bench.KernelOptions{ISA: c.ISA, Threads: c.Threads, Repeats: c.Repeats,
		Memory: int(c.Memory)})
	if err != nil {
		return err
	}
	if c.JSON {
		return bench.WriteJSON(os.Stdout, rows)
	}
	bench.WriteTable(os.Stdout, rows)
	return nil
}
