package attention

import (
	"context"

	"github.com/tandem-moe/tandem/model"
	"github.com/tandem-moe/tandem/schedule"
	"github.com/tandem-moe/tandem/schedule/interpret"
)

// mostProved bounds the number of actions in the schedule that a node proves before it
// starts: some 30 ms. 64 expert nodes, 100 layers and 4 micro-batches stay below it.
const mostProved = 100_000

// provedSteps is how many steps of the schedule are proved: the later ones repeat them.
const provedSteps = 3

// newWalk proves the ping-pong schedule that a node takes part in, and makes the
// walk of the node's rank.
//
// The schedule has one attention rank, as attention nodes come and go while this
// one works, and an expert rank for each of the cluster's expert nodes, or as many
// as mostProved allows. The proof holds for more ranks of both pools: the ranks of
// a pool have the same list and exchange nothing with each other, so that they
// can do the same action at the same time, and whoever waits for all of them waits
// no longer than for one.
func newWalk(spec *model.Spec, expertNodes, microBatches int) (*interpret.Walk, error) {
	fits := mostProved / max(1, provedSteps*len(spec.Layers)*microBatches)
	s, err := schedule.PingPong(schedule.Serving{
		Attention: 1, Experts: max(1, min(expertNodes, fits)), Layers: len(spec.Layers),
		Sparse:       func(l int) bool { return spec.Layers[l].Sparse },
		MicroBatches: microBatches, Steps: provedSteps,
	})
	if err != nil {
		return nil, err
	}
	return interpret.New(s, 0)
}

// perform does one action of the node's schedule. The attention of layer 0 begins a
// step if the micro-batch has rows. Other actions of a micro-batch that is in no step
// are skipped.
func (n *Node) perform(ctx context.Context, a schedule.Action) error {
	b := n.batches[a.MicroBatch]
	switch {
	case a.Part == schedule.Attention && a.Layer == 0:
		if started, err := n.start(ctx, a.MicroBatch); !started {
			return err
		}
		return n.forward(ctx, a)
	case !b.active:
		return nil
	case a.Part == schedule.Head:
		return n.finish(ctx, a.MicroBatch)
	}
	if err := n.combine(ctx, b); err != nil {
		return err
	}
	return n.forward(ctx, a)
}
