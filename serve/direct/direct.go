// Package direct is the plain version of a model: attention and experts called one
// after the other on one device. It may not know m2n, schedules or batches: it is
// the reference for disaggregated serving.
package direct

import (
	"context"
	"fmt"

	"github.com/tandem-moe/tandem/kernel"
	"github.com/tandem-moe/tandem/layer"
	"github.com/tandem-moe/tandem/model"
	"github.com/tandem-moe/tandem/route"
	"github.com/tandem-moe/tandem/serve/node"
)

// Model calls attention and experts one after the other on one device. Disaggregated
// serving must give the same bits; the difference in time is the cost of
// disaggregation.
type Model struct {
	// Wire is the wire format to imitate: rows are rounded as if they were sent.
	// Placement is the placement to imitate where Wire.Combine is [route.Partial].
	// Both may be changed between batches.
	Wire      route.Wire
	Placement route.Placement

	spec      *model.Spec
	dev       kernel.Device
	attention *layer.Attention
	experts   *layer.Experts
	weights   []layer.ExpertLayer // layer → weights of all its experts
	rows      *layer.Activations
	splitter  *route.Splitter // to one node that has all experts
	grouper   *route.Grouper
	pairs     route.Pairs
	scratch   struct{ in, gate, out kernel.Buffer }
	order     []int32 // choice → index of its result
	byChoice  *route.Sums
	// AfterLayer, if set, is called after each layer.
	AfterLayer func(layer int, r *layer.Activations)
}

// New makes a model for batches of at most capacity rows. The weights must be those
// of all experts.
func New(dev kernel.Device, spec *model.Spec, a *layer.AttentionWeights, e *layer.ExpertWeights, cache *layer.Cache, capacity int) (*Model, error) {
	one, all := route.Even(spec.Sparse(), spec.Router.Experts, 1), spec.AllExperts().Experts
	d := &Model{
		Placement: one,
		spec:      spec, dev: dev,
		weights:  make([]layer.ExpertLayer, len(spec.Layers)),
		splitter: route.NewSplitter(one, spec.Router.TopK, route.ByExpert),
	}
	for _, l := range spec.SparseLayers() {
		d.weights[l], d.grouper = e.Layer(l, all[l]), route.NewGrouper(all[l])
	}
	var err error
	if d.attention, err = layer.NewAttention(dev, spec, a, cache); err != nil {
		return nil, err
	}
	if d.experts, err = layer.NewExperts(dev, spec); err != nil {
		return nil, err
	}
	if d.rows, err = d.attention.NewActivations(capacity); err != nil {
		return nil, err
	}
	n := capacity * spec.Router.TopK
	for _, b := range []struct {
		to       *kernel.Buffer
		elements int
	}{{&d.scratch.in, n * spec.Hidden}, {&d.scratch.gate, n}, {&d.scratch.out, n * spec.Hidden}} {
		if *b.to, err = dev.Alloc(kernel.DeviceMemory, kernel.F32, b.elements); err != nil {
			d.Free()
			return nil, fmt.Errorf("direct batch of %d rows: %w", capacity, err)
		}
	}
	d.order = make([]int32, n)
	d.byChoice = route.ByChoice(capacity, spec.Router.TopK)
	return d, nil
}

// Free frees the model's own memory, but neither weights nor cache.
func (d *Model) Free() {
	d.attention.FreeActivations(d.rows)
	d.experts.Free()
	node.FreeAll(d.dev, d.scratch.in, d.scratch.gate, d.scratch.out)
}

// Forward computes all layers for a batch. ids and pos have the token and the position
// of each row; seqs divide the rows among sequences.
func (d *Model) Forward(ctx context.Context, ids, pos []int32, seqs []kernel.Sequence) error {
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

// sparse computes layer l's experts for the rows of d.rows, on the same device.
func (d *Model) sparse(ctx context.Context, l int) error {
	rows := d.rows.Residual.Rows
	if d.Wire.Combine == route.Partial { // the nodes of a row follow from them
		d.rows.TopKWeights.Fetch(d.dev, rows*d.spec.Router.TopK)
	}
	if err := d.dev.Record().Wait(ctx); err != nil {
		return err
	}
	packets, err := d.splitter.Split(l, d.rows.TopKIDs.Host().Bytes(), d.rows.TopKWeights.Host().Bytes(), rows)
	if err != nil {
		return err
	}
	p := packets[0]
	d.pairs = route.Pairs{Rows: rows, Row: p.Row, Expert: p.Expert}
	g := d.grouper.Group([]route.Pairs{d.pairs})
	n, h := len(p.Row), d.spec.Hidden
	in, gate, out := kernel.MatOf(d.scratch.in, n, h), kernel.MatOf(d.scratch.gate, n, 1), kernel.MatOf(d.scratch.out, n, h)
	d.dev.CopyRows(in, nil, d.rows.Normed, p.Row)
	if err := d.travel(in); err != nil {
		return err
	}
	d.dev.CopyRows(gate, nil, kernel.MatOf(d.rows.TopKWeights.Buffer, d.rows.TopKWeights.Buffer.Len(), 1), p.Choice)
	if err := d.experts.Forward(d.weights[l], out, in, gate, g.Offsets); err != nil {
		return err
	}
	for i, choice := range p.Choice {
		d.order[choice] = int32(i)
	}
	if d.Wire.Combine == route.Partial {
		return d.combinePartial(l, p, out)
	}
	if err := d.travel(out); err != nil {
		return err
	}
	_, offsets := d.byChoice.First(rows)
	d.attention.Combine(d.rows, out, d.order[:n], offsets)
	return nil
}

// travel rounds rows as sending them by Wire would: it encodes and decodes them.
func (d *Model) travel(m kernel.Mat) error {
	if d.Wire.Rows == kernel.RowF32 {
		return nil
	}
	b, err := d.dev.Alloc(kernel.DeviceMemory, kernel.F32, m.Rows*d.Wire.RowBytes(m.Cols)/4)
	if err != nil {
		return fmt.Errorf("%d rows as they travel: %w", m.Rows, err)
	}
	defer d.dev.Free(b)
	coded := kernel.CodedMatOf(b, d.Wire.Rows, m.Rows, m.Cols)
	d.dev.EncodeRows(coded, m, nil)
	d.dev.DecodeRows(m, nil, coded, nil)
	return nil
}

// combinePartial adds the results of a packet with all pairs to the residual stream.
// For each row it first sums the results of each node, best expert first, and then
// adds the nodes' sums.
func (d *Model) combinePartial(l int, p route.Packet, out kernel.Mat) error {
	k, homes := d.spec.Router.TopK, d.Placement.Layers[l]
	choices, gates := d.rows.TopKIDs.Host().Bytes(), d.rows.TopKWeights.Host().Bytes()
	node := make([]int, len(p.Choice)) // choice → node that computes it
	for i, choice := range p.Choice {
		at := 4 * k * (int(choice) / k)
		node[choice] = homes.Pick(int(p.Expert[i]), route.RowHash(choices[at:at+4*k], gates[at:at+4*k]))
	}
	var results, sums []int32
	// Sum i adds results[ends[i]:ends[i+1]], row r adds sums[offsets[r]:offsets[r+1]].
	ends, offsets := []int32{0}, []int32{0}
	for r := range d.rows.Residual.Rows {
		for n := range d.Placement.Nodes {
			for choice := r * k; choice < (r+1)*k; choice++ {
				if node[choice] == n {
					results = append(results, d.order[choice])
				}
			}
			if len(results) > int(ends[len(ends)-1]) {
				sums, ends = append(sums, int32(len(sums))), append(ends, int32(len(results)))
			}
		}
		offsets = append(offsets, int32(len(sums)))
	}
	b, err := d.dev.Alloc(kernel.DeviceMemory, kernel.F32, len(sums)*out.Cols)
	if err != nil {
		return fmt.Errorf("%d sums: %w", len(sums), err)
	}
	defer d.dev.Free(b)
	summed := kernel.MatOf(b, len(sums), out.Cols)
	d.experts.Sum(summed, out, results, ends)
	if err := d.travel(summed); err != nil {
		return err
	}
	d.attention.Combine(d.rows, summed, sums, offsets)
	return nil
}

// Head computes the logits of the given rows and each row's log-sum-exp.
func (d *Model) Head(logits, lse kernel.Mat, rows []int32) {
	d.attention.Head(logits, lse, d.rows, rows)
}
