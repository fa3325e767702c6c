package deploy

import (
	"context"
	"sync"
)

// group runs the parts of a membership: when one of them ends, all others are
// canceled.
type group struct {
	ctx     context.Context
	cancel  context.CancelCauseFunc
	running sync.WaitGroup
}

func newGroup(ctx context.Context) *group {
	g := &group{}
	g.ctx, g.cancel = context.WithCancelCause(ctx)
	return g
}

func (g *group) run(f func(ctx context.Context) error) {
	g.running.Go(func() {
		err := f(g.ctx)
		if err == nil {
			err = context.Canceled
		}
		g.cancel(err)
	})
}

// wait waits for all parts, and returns the error of the one that ended first.
func (g *group) wait() error {
	g.running.Wait()
	return context.Cause(g.ctx)
}
