package attention

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/tandem-moe/tandem/m2n"
	"github.com/tandem-moe/tandem/route"
	"github.com/tandem-moe/tandem/serve/attention/dispatch"
)

// stallTimeout bounds the wait for an expert node that is alive and does not
// answer: it ends between half of stallTimeout and all of it from its beginning.
const stallTimeout = time.Minute

// patience makes the contexts of waits that stallTimeout bounds. One serves many
// waits: a timer for each would wake a thread that sleeps until a later one, and
// cost more than the rest of a hand-over.
type patience struct {
	ctx    context.Context
	ends   time.Time
	cancel context.CancelFunc
}

func (p *patience) context(parent context.Context) context.Context {
	if now := time.Now(); p.ends.Sub(now) < stallTimeout/2 {
		p.end()
		p.ctx, p.cancel = context.WithTimeout(parent, stallTimeout)
		p.ends = now.Add(stallTimeout)
	}
	return p.ctx
}

func (p *patience) end() {
	if p.cancel != nil {
		p.cancel()
	}
}

// await takes completions until micro-batch b need not wait for them any more: what it
// waited for is done, or its step has been given up.
func (n *Node) await(ctx context.Context, b *microBatch, done func() bool) error {
	for b.active && !done() {
		c, err := n.poll(ctx, b)
		if errors.Is(err, errStalled) {
			if err := n.stalled(b); err != nil {
				return err
			}
			continue
		}
		if err != nil {
			return err
		}
		if c.Kind == m2n.Received {
			n.turn.Begin() // helpers wake while it is read
		}
		if err := n.handle(ctx, c); err != nil {
			return err
		}
	}
	return nil
}

// errStalled says that nothing came for long.
var errStalled = errors.New("stalled")

// poll waits for a completion while micro-batch b waits for one of its own.
func (n *Node) poll(ctx context.Context, b *microBatch) (m2n.Completion, error) {
	if c, ok := n.cfg.Endpoint.TryPoll(); ok {
		return c, nil
	}
	n.turn.End()
	wait := n.patience.context(ctx)
	n.awaited.set(b.exchange.Missing())
	defer n.awaited.clear()
	c, err := n.cfg.Endpoint.Poll(wait)
	if err != nil && ctx.Err() == nil && wait.Err() != nil {
		return c, errStalled
	}
	return c, err
}

// stalled drops the pairs that micro-batch b has waited for in vain.
func (n *Node) stalled(b *microBatch) error {
	x := b.exchange
	places, what := x.Unsent(), "end of sending the rows"
	if x.State() == dispatch.Awaiting {
		places, what = x.Unreturned(), "results"
	}
	cause := fmt.Errorf("no %s of %v, micro-batch %d for %v", what, x.At(), slices.Index(n.batches, b), stallTimeout/2)
	for _, place := range places {
		if err := n.drop(place, cause); err != nil {
			return err
		}
	}
	return nil
}

// handle takes a completion of any micro-batch.
func (n *Node) handle(ctx context.Context, c m2n.Completion) error {
	n.handled.Add(1)
	switch c.Kind {
	case m2n.Sent:
		for _, b := range n.batches {
			b.exchange.Sent(c.Token)
		}
		if c.Err == nil && n.pairs.Sent(c.Token) {
			n.tellPairs()
		}
	case m2n.Lost:
		return n.lost(c)
	case m2n.Received:
		defer n.cfg.Endpoint.Release(c)
		place := n.pairs.Place(c.Peer)
		if place < 0 {
			return nil // its place has another expert node now
		}
		fault, err := n.receive(ctx, place, c)
		if fault != nil {
			err = errors.Join(err, n.drop(place, fault))
		}
		return err
	}
	return nil
}

// receive takes an expert node's results to their micro-batch. fault is what the expert
// node did wrong, err what failed on this node.
func (n *Node) receive(ctx context.Context, place int, c m2n.Completion) (fault, err error) {
	h, err := route.ParseHeader(c.Header)
	if err != nil {
		return err, nil
	}
	if h.Kind != route.Return || h.MicroBatch >= len(n.batches) {
		return fmt.Errorf("an unexpected message: kind %d, step %d, layer %d, micro-batch %d",
			h.Kind, h.Step, h.Layer, h.MicroBatch), nil
	}
	x := n.batches[h.MicroBatch].exchange
	drop, err := x.Returned(place, dispatch.Point{Step: h.Step, Layer: h.Layer})
	if err != nil {
		return fmt.Errorf("micro-batch %d: %w", h.MicroBatch, err), nil
	}
	if drop {
		return nil, nil
	}
	n.stats.Arrived(c)
	if fault = x.collect(place, h, c.Body); fault != nil {
		fault = fmt.Errorf("results of step %d, layer %d, micro-batch %d: %w", h.Step, h.Layer, h.MicroBatch, fault)
	}
	// The spans are given back next: what reads them must be done.
	return fault, n.cfg.Device.Record().Wait(ctx)
}

// handleAll takes the completions that are there.
func (n *Node) handleAll(ctx context.Context) error {
	for {
		c, ok := n.cfg.Endpoint.TryPoll()
		if !ok {
			return nil
		}
		if err := n.handle(ctx, c); err != nil {
			return err
		}
	}
}
