package exchange

import (
	"context"
	"errors"
	"fmt"
	"math"
	"os"
	"runtime"
	"slices"

	"github.com/tandem-moe/tandem/m2n/ucx"
)

// Run measures all shapes with all contestants. A contestant that is not
// installed, or cannot do a shape, is left out and named in the report.
func Run(ctx context.Context, o Options) (*Report, error) {
	if err := o.fill(); err != nil {
		return nil, fmt.Errorf("bench m2n: %w", err)
	}
	// Processes die with the thread that started them: this one stays.
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	report, err := o.run(ctx)
	if err != nil {
		return nil, fmt.Errorf("bench m2n: %w", err)
	}
	return report, nil
}

func (o *Options) run(ctx context.Context) (report *Report, err error) {
	dir, err := sharedFolder()
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, os.RemoveAll(dir)) }()
	b := &builder{options: o, dir: dir}
	defer func() { err = errors.Join(err, b.close()) }()
	report = &Report{LineRate: o.LineRate, Repeats: o.Repeats}
	for _, s := range o.shapes() {
		if err := o.measureShape(ctx, b, s, report); err != nil {
			return nil, fmt.Errorf("%v: %w", s, err)
		}
	}
	return report, nil
}

// sharedFolder is for pages, in memory where there is such a folder.
func sharedFolder() (string, error) {
	dir, err := os.MkdirTemp("/dev/shm", "tandem-bench-")
	if err != nil {
		dir, err = os.MkdirTemp("", "tandem-bench-")
	}
	if err != nil {
		return "", fmt.Errorf("folder for shared pages: %w", err)
	}
	return dir, nil
}

// builder makes contestants.
type builder struct {
	options  *Options
	dir      string // of pages
	mpi      *mpi
	mpiErr   error
	programs string // folder of programs that are built; empty before the first
	grpc     string
	grpcErr  error
}

func (b *builder) close() error {
	if b.programs == "" {
		return nil
	}
	return os.RemoveAll(b.programs)
}

// entrant prepares one, which is not started. It fails where the contestant is
// not installed or cannot do the shape.
func (b *builder) entrant(ctx context.Context, name string, s Shape) (*entrant, error) {
	e := &entrant{name: name}
	group := func(commands commands) {
		spin := s.processes() <= cores()
		e.start = func(ctx context.Context) (contestant, error) {
			return asContestant(startGroup(ctx, name, b.dir, s, spin, commands))
		}
	}
	switch name {
	case "mpi-shm", "mpi-tcp":
		m, err := b.openMPI(ctx, s)
		if err != nil {
			return nil, err
		}
		group(m.commands(ctx, name[len("mpi-"):], s))
	case "ucx", "ucx-tcp":
		p, err := newPerftest(name, s)
		if err != nil {
			return nil, err
		}
		e.start = func(context.Context) (contestant, error) { return p, nil }
	case "m2n-ucx":
		if err := ucx.Available(); err != nil {
			return nil, fmt.Errorf("%w: %w", errMissing, err)
		}
		group(goEnds(ctx, b.options.End, name, s))
	case "grpc", "grpc-tuned":
		program, err := b.openGRPC(ctx)
		if err != nil {
			return nil, err
		}
		group(goEnds(ctx, []string{program}, name, s))
	default:
		group(goEnds(ctx, b.options.End, name, s))
	}
	return e, nil
}

// openMPI builds MPI's end, once.
func (b *builder) openMPI(ctx context.Context, s Shape) (*mpi, error) {
	if n := max(s.Senders, s.Receivers) * s.Bytes; n > math.MaxInt32 {
		return nil, fmt.Errorf("%w: MPI_Alltoallv counts in 32 bits, and an end has %d bytes", errUnsuited, n)
	}
	if b.mpi == nil && b.mpiErr == nil {
		b.mpi, b.mpiErr = buildMPI(ctx, b.dir)
	}
	return b.mpi, b.mpiErr
}

// openGRPC finds or builds gRPC's end, once. The folder of pages is no place for
// programs: memory is often mounted so that nothing in it can run.
func (b *builder) openGRPC(ctx context.Context) (program string, err error) {
	if b.grpc != "" || b.grpcErr != nil {
		return b.grpc, b.grpcErr
	}
	if b.programs, err = os.MkdirTemp("", "tandem-bench-"); err != nil {
		return "", fmt.Errorf("folder for programs: %w", err)
	}
	b.grpc, b.grpcErr = peer(ctx, b.programs, grpcProgram)
	return b.grpc, b.grpcErr
}

// asContestant keeps nil pointers from becoming contestants.
func asContestant(g *group, err error) (contestant, error) {
	if err != nil {
		return nil, err
	}
	return g, nil
}

// measureShape measures all contestants in turns.
func (o *Options) measureShape(ctx context.Context, b *builder, s Shape, report *Report) (err error) {
	var entrants []*entrant
	defer func() {
		for _, e := range entrants {
			err = errors.Join(err, e.close())
		}
	}()
	for _, name := range o.contestants() {
		e, err := b.entrant(ctx, name, s)
		if errors.Is(err, errMissing) || errors.Is(err, errUnsuited) {
			report.Skipped = append(report.Skipped, Skipped{Kind: "skipped", Transport: name, Shape: s, Reason: err.Error()})
			continue
		}
		if err != nil {
			return err
		}
		entrants = append(entrants, e)
	}
	if err := station(ctx, s, entrants); err != nil {
		return err
	}
	copies, err := o.turns(ctx, s, entrants)
	if err != nil {
		return err
	}
	report.add(s, entrants, median(copies))
	return nil
}

// station starts all contestants where there is memory for them at once. Where
// there is not, each is started for its turns.
func station(ctx context.Context, s Shape, entrants []*entrant) error {
	free, err := freeMemory()
	if err != nil {
		return err
	}
	resident, err := fits(footprint(s), len(entrants), free)
	if err != nil || !resident {
		return err
	}
	for _, e := range entrants {
		if e.resident, err = e.start(ctx); err != nil {
			return err
		}
	}
	return nil
}

// turns lets the contestants take turns, in an order that turns too. Copying
// memory takes part.
func (o *Options) turns(ctx context.Context, s Shape, entrants []*entrant) (copies []float64, err error) {
	memory := newCopying()
	for _, e := range entrants {
		if err := o.plan(ctx, e); err != nil {
			return nil, fmt.Errorf("%s: %w", e.name, err)
		}
	}
	for repeat := range o.Repeats {
		copies = append(copies, memory.measure())
		order := slices.Clone(entrants)
		if n := len(order); n > 0 {
			order = slices.Concat(order[repeat%n:], order[:repeat%n])
		}
		for _, e := range order {
			t, err := e.measure(ctx, e.each)
			if err != nil {
				return nil, fmt.Errorf("%s: %w", e.name, err)
			}
			e.turns = append(e.turns, t)
			if o.Progress != nil {
				o.Progress(Progress{repeat + 1, o.Repeats, e.name, s, t.iterations, median(t.times) * 1e6})
			}
		}
	}
	return copies, nil
}

// plan chooses the iterations of a turn, by two turns that are not counted: a few
// iterations, which are slow, say how many tell their usual time.
func (o *Options) plan(ctx context.Context, e *entrant) error {
	e.each = 3
	for range 2 {
		t, err := e.measure(ctx, e.each)
		if err != nil {
			return err
		}
		e.each = iterationsOf(o, median(t.times))
	}
	return nil
}
