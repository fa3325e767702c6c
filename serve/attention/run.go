package attention

import (
	"context"
	"errors"
	"time"

	"github.com/tandem-moe/tandem/serve"
)

// Run serves until ctx ends (nil), or the device fails. Whatever ends it, no request is
// left without a last report. Where an expert node is lost it holds its requests until
// another is in its place, no longer than Config.ExpertWait.
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

// stopping says why the loop was told to end: the cause, where it is known.
func stopping(ctx context.Context) string {
	if cause := context.Cause(ctx); !errors.Is(cause, context.Canceled) {
		return cause.Error()
	}
	return "the attention node is stopping"
}

// rest waits until there is a micro-batch in flight, or a sequence to begin and an
// expert node in each place to begin it with.
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

// How often a node without work looks whether it has lost an expert node, and one that
// lacks expert nodes whether it has them.
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
