package exchange

import (
	"context"
	"errors"
	"fmt"
	"os"
	"runtime"
	"slices"
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
	options *Options
	dir     string
	mpi     *mpi
	mpiErr  error
}

// contestant starts one.
func (b *builder) contestant(ctx context.Context, name string, s Shape) (contestant, error) {
	spin := s.processes() <= runtime.NumCPU()
	switch name {
	case "mpi-shm", "mpi-tcp":
		if b.mpi == nil && b.mpiErr == nil {
			b.mpi, b.mpiErr = buildMPI(ctx, b.dir)
		}
		if b.mpiErr != nil {
			return nil, b.mpiErr
		}
		return asContestant(startGroup(ctx, name, b.dir, s, spin, b.mpi.commands(ctx, name[len("mpi-"):], s)))
	case "ucx", "ucx-tcp":
		return asContestant(newPerftest(name, s))
	}
	return asContestant(startGroup(ctx, name, b.dir, s, spin, ownEnds(ctx, b.options.End, name, s)))
}

func asContestant[C contestant](c C, err error) (contestant, error) {
	if err != nil {
		return nil, err
	}
	return c, nil
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
		c, err := b.contestant(ctx, name, s)
		if errors.Is(err, errMissing) || errors.Is(err, errUnsuited) {
			report.Skipped = append(report.Skipped, Skipped{Kind: "skipped", Transport: name, Shape: s, Reason: err.Error()})
			continue
		}
		if err != nil {
			return err
		}
		entrants = append(entrants, &entrant{contestant: c, name: name})
	}
	copies, err := o.turns(ctx, s, entrants)
	if err != nil {
		return err
	}
	report.add(s, entrants, median(copies))
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
				o.Progress(Progress{repeat + 1, o.Repeats, e.name, s, len(t.times), median(t.times) * 1e6})
			}
		}
	}
	return copies, nil
}

// plan chooses the iterations of a turn, by a few that are not counted.
func (o *Options) plan(ctx context.Context, e *entrant) error {
	const few = 3
	t, err := e.measure(ctx, few)
	if err != nil {
		return err
	}
	e.each = iterationsOf(o, median(t.times))
	return nil
}
