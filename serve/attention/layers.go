package attention

import (
	"context"
	"errors"
	"time"

	"github.com/tandem-moe/tandem/m2n"
	"github.com/tandem-moe/tandem/route"
	"github.com/tandem-moe/tandem/schedule"
	"github.com/tandem-moe/tandem/serve/attention/dispatch"
)

// forward computes the attention of a layer and sends its rows to the experts, unless
// the step is given up meanwhile because an expert node is lost.
func (n *Node) forward(ctx context.Context, a schedule.Action) error {
	b := n.batches[a.MicroBatch]
	if err := n.await(ctx, b, b.exchange.Free); err != nil || !b.active {
		return err
	}
	bodies, err := n.compute(ctx, b, a)
	if err != nil || bodies == nil {
		return err
	}
	ready := n.cfg.Device.Record()
	for place, body := range bodies {
		if err := b.exchange.post(place, n.pairs.Pair(place).ID, body, ready); err != nil {
			return n.unposted(place, err)
		}
	}
	n.sent++
	for _, l := range n.cfg.Lose {
		if l.Dispatches == n.sent {
			return n.drop(l.Place, errForced)
		}
	}
	return nil
}

var errForced = errors.New("its loss was forced")

// compute computes the attention of a layer, and packs the rows for its experts; nothing
// where the layer has no experts.
func (n *Node) compute(ctx context.Context, b *microBatch, a schedule.Action) ([][]m2n.Span, error) {
	n.turn.Begin()
	begin := time.Now()
	defer func() { n.stats.Computed(time.Since(begin)) }()
	n.attention.Forward(a.Layer, b.rows, b.seqs, b.positions)
	if !n.cfg.Spec.Layers[a.Layer].Sparse {
		return nil, nil
	}
	n.announced = n.inFlight()
	return b.exchange.pack(ctx, b.rows, route.Header{
		Kind: route.Dispatch, MicroBatch: a.MicroBatch, Layer: a.Layer,
		Step: b.step, InFlight: n.announced,
	})
}

// combine waits for a micro-batch's results of the last layer and adds them to
// its residual stream, unless the step is given up meanwhile.
func (n *Node) combine(ctx context.Context, b *microBatch) error {
	if s := b.exchange.State(); s == dispatch.Idle || s == dispatch.Aborted { // the layer has no experts
		return nil
	}
	if err := n.await(ctx, b, func() bool { return b.exchange.State() == dispatch.Collected }); err != nil || !b.active {
		return err
	}
	n.turn.Begin()
	begin := time.Now()
	b.exchange.combine(n.attention, b.rows)
	n.stats.Busy(time.Since(begin))
	return nil
}
