package attention

import (
	"context"
	"errors"
	"time"

	"github.com/tandem-moe/tandem/serve"
)

// Run serves until ctx ends, and returns nil, or until the device fails. In both cases
// each request gets a last report. While an expert node is lost, Run holds requests until
// another one is in its place, for at most Config.ExpertWait.
func (n *Node) Run(ctx context.Context) error {
	err := n.serve(ctx)
	n.turn.End()
	n.patience.end()
	reason := &serve.UnavailableError{Reason: err.Error()}
	if ctx.Err() != nil {
		err, reason.Reason = nil, stopping(ctx)
	}
	err = errors.Join(err, n.accept())
	for id := range n.sequences {
		n.reports = append(n.reports, serve.Report{ID: id, Err: reason})
	}
	clear(n.sequences)
	n.flush()
	return err
}

// stopping says why the loop was told to end: ctx's cause, if it has one.
func stopping(ctx context.Context) string {
	if cause := context.Cause(ctx); !errors.Is(cause, context.Canceled) {
		return cause.Error()
	}
	return "the attention node is stopping"
}

// rest waits until a micro-batch is in flight, or until there is a sequence to begin and
// each place has an expert node.
func (n *Node) rest(ctx context.Context) error {
	for {
		if err := n.accept(); err != nil {
			return err
		}
		if n.inFlight() != 0 || n.pairs.Up() && n.batcher.Waiting()+n.batcher.Running() > 0 {
			n.stats.Working(true)
			return nil
		}
		if n.batcher.Waiting()+n.batcher.Running() == 0 {
			n.pairs.Settle()
		}
		n.stats.Working(false)
		n.turn.End()
		if err := n.idle(ctx); err != nil {
			return err
		}
	}
}

// How often a node without work checks whether an expert node is lost, and how often a
// node that lacks expert nodes checks whether they have come.
const (
	idleLook = 250 * time.Millisecond
	mendLook = 5 * time.Millisecond
)

// idle waits for a command, and meanwhile notices expert nodes that are lost, which
// the next request would have to find out otherwise, and those that are connected.
func (n *Node) idle(ctx context.Context) error {
	pause := idleLook
	if !n.pairs.Up() {
		pause = mendLook
	}
	look := time.NewTimer(pause)
	defer look.Stop()
	select {
	case <-n.news:
		if n.pairs.Up() {
			return nil
		}
	case <-ctx.Done():
		return ctx.Err()
	case <-look.C:
	}
	if err := n.handleAll(ctx); err != nil {
		return err
	}
	return n.mend()
}
