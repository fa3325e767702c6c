package serve

import (
	"context"
	"fmt"

	"github.com/tandem-moe/tandem/kernel"
	"github.com/tandem-moe/tandem/layer"
	"github.com/tandem-moe/tandem/model"
	"github.com/tandem-moe/tandem/route"
)

// Direct calls attention and experts one after the other on one device, without
// m2n, schedule or batching. It is the plain version that disaggregated serving
// is held against: the same bits, and what the disaggregation costs.
type Direct struct {
	spec      *model.Spec
	dev       kernel.Device
	attention *layer.Attention
	experts   *layer.Experts
	rows      *layer.Rows
	splitter  *route.Splitter
	grouper   *route.Grouper
	pairs     route.Pairs
	scratch   struct{ in, gate, out kernel.Buffer }
	order     []int32
	// AfterLayer, where it is set, is called after each layer.
	AfterLayer func(layer int, r *layer.Rows)
}

// NewDirect makes the direct version for batches of at most capacity rows. The
// weights are of all experts.
func NewDirect(dev kernel.Device, spec *model.Spec, a *layer.AttentionWeights, e *layer.ExpertWeights, cache *layer.Cache, capacity int) (*Direct, error) {
	placement := route.Even(spec.Router.Experts, 1)
	d := &Direct{
		spec: spec, dev: dev,
		attention: layer.NewAttention(dev, spec, a, cache),
		experts:   layer.NewExperts(dev, spec, e),
		splitter:  route.NewSplitter(placement, spec.Router.TopK),
		grouper:   route.NewGrouper(placement.Experts(0)),
	}
	var err error
	if d.rows, err = d.attention.NewRows(capacity); err != nil {
		return nil, err
	}
	n := capacity * spec.Router.TopK
	for _, b := range []struct {
		to       *kernel.Buffer
		elements int
	}{{&d.scratch.in, n * spec.Hidden}, {&d.scratch.gate, n}, {&d.scratch.out, n * spec.Hidden}} {
		if *b.to, err = dev.Alloc(kernel.F32, b.elements); err != nil {
			return nil, fmt.Errorf("direct batch of %d rows: %w", capacity, err)
		}
	}
	d.order = make([]int32, n)
	return d, nil
}

// Free gives the memory back.
func (d *Direct) Free() {
	d.attention.FreeRows(d.rows)
	d.experts.Free()
	for _, b := range []kernel.Buffer{d.scratch.in, d.scratch.gate, d.scratch.out} {
		d.dev.Free(b)
	}
}

// Forward computes all layers for a batch: ids and pos are by row, seqs say
// whose rows they are.
func (d *Direct) Forward(ctx context.Context, ids, pos []int32, seqs []kernel.Sequence) error {
	d.attention.Embed(d.rows, ids)
	for l := range d.spec.Layers {
		d.attention.Forward(l, d.rows, seqs, pos)
		if d.spec.Layers[l].Sparse {
			if err := d.sparse(ctx, l); err != nil {
				return fmt.Errorf("layer %d: %w", l, err)
			}
		}
		if d.AfterLayer != nil {
			d.AfterLayer(l, d.rows)
		}
	}
	return d.dev.Record().Wait(ctx)
}

// sparse computes layer l's experts where its rows are.
func (d *Direct) sparse(ctx context.Context, l int) error {
	if err := d.dev.Record().Wait(ctx); err != nil {
		return err
	}
	rows := d.rows.Residual.Rows
	packets, err := d.splitter.Split(d.rows.Choice.Bytes(), rows)
	if err != nil {
		return err
	}
	p := packets[0]
	d.pairs = route.Pairs{Rows: rows, Row: p.Row, Expert: p.Expert}
	g := d.grouper.Group([]route.Pairs{d.pairs})
	n, h := len(p.Row), d.spec.Hidden
	in, gate, out := kernel.MatOf(d.scratch.in, n, h), kernel.MatOf(d.scratch.gate, n, 1), kernel.MatOf(d.scratch.out, n, h)
	d.dev.CopyRows(in, nil, d.rows.Normed, p.Row)
	d.dev.CopyRows(gate, nil, kernel.MatOf(d.rows.Gate, d.rows.Gate.Len(), 1), p.Choice)
	if err := d.experts.Forward(l, out, in, gate, g.Offsets); err != nil {
		return err
	}
	for i, choice := range p.Choice {
		d.order[choice] = int32(i)
	}
	d.attention.Combine(d.rows, out, d.order[:n])
	return nil
}

// Head writes the logits and their log-sum-exp of the given rows.
func (d *Direct) Head(logits, lse kernel.Mat, rows []int32) {
	d.attention.Head(logits, lse, d.rows, rows)
}
