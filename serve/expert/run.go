package expert

import (
	"context"
	"fmt"
	"time"

	"github.com/tandem-moe/tandem/kernel"
	"github.com/tandem-moe/tandem/layer"
	"github.com/tandem-moe/tandem/m2n"
	"github.com/tandem-moe/tandem/route"
	"github.com/tandem-moe/tandem/serve/gather"
	"github.com/tandem-moe/tandem/serve/node"
)

// output holds a run's results. The transport reads it until each message with a part of
// the results has been sent.
type output struct {
	node.SendBuffer
	places *m2n.Region // the places where the receivers want the results
	parts  int
}

// run computes a layer's experts over the rows of several messages.
func (n *Node) run(ctx context.Context, run *gather.Run) error {
	grouping, out, err := n.resultsOf(ctx, run)
	if err != nil {
		return fmt.Errorf("layer %d: %w", run.Layer, err)
	}
	for _, d := range n.pending {
		n.done(d.holding)
	}
	n.count(grouping.Offsets)
	n.drain()
	n.answer(run, grouping, out)
	return nil
}

// resultsOf computes a run's results.
func (n *Node) resultsOf(ctx context.Context, run *gather.Run) (*route.Grouping, *output, error) {
	n.turn.Begin()
	begin := time.Now()
	n.pending, n.pairs = n.pending[:0], n.pairs[:0]
	rows := 0 // of all the messages
	for _, m := range run.Messages {
		d := m.Tag.(*dispatched)
		n.pending, n.pairs = append(n.pending, d), append(n.pairs, d.pairs)
		rows += d.pairs.Rows
	}
	all := n.all()
	defer n.done(all)
	grouping := all.groupers[run.Layer].Group(n.pairs)
	out, err := n.compute(ctx, all.weights[run.Layer], rows, grouping)
	n.stats.Computed(time.Since(begin))
	return grouping, out, err
}

// compute computes a layer's experts for messages of so many rows together, and returns
// the results in the wire's format.
func (n *Node) compute(ctx context.Context, w layer.ExpertLayer, rows int, g *route.Grouping) (*output, error) {
	pairs := int(g.Offsets[len(g.Offsets)-1])
	if err := n.fill(ctx, g, pairs); err != nil {
		return nil, err
	}
	out, err := n.output(n.cfg.Wire.Results(rows, pairs) * n.cfg.Wire.RowBytes(n.cfg.Spec.Hidden))
	if err != nil {
		return nil, err
	}
	if err := n.forward(out, w, rows, pairs, g); err != nil {
		n.outputs = append(n.outputs, out) // no message refers to it yet
		return nil, err
	}
	return out, nil
}

// forward computes a layer's experts. Each step writes where the next one reads; the
// last one writes to the output.
func (n *Node) forward(out *output, w layer.ExpertLayer, rows, pairs int, g *route.Grouping) error {
	hidden, wire := n.cfg.Spec.Hidden, n.cfg.Wire
	results, err := n.room(&n.results, out, pairs, wire == route.Wire{})
	if err != nil {
		return err
	}
	in, gate := kernel.MatOf(n.in, pairs, hidden), kernel.MatOf(n.gate, pairs, 1)
	if err := n.experts.Forward(w, results, in, gate, g.Offsets); err != nil {
		return err
	}
	if wire.Combine == route.Partial {
		summed, err := n.room(&n.summed, out, rows, wire.Rows == kernel.RowF32)
		if err != nil {
			return err
		}
		n.sums.ByRow(n.pairs, g)
		n.experts.Sum(summed, results, n.sums.Results, n.sums.Offsets)
		results = summed
	}
	if wire.Rows != kernel.RowF32 {
		n.cfg.Device.EncodeRows(kernel.CodedMatOf(out.Buffer, wire.Rows, wire.Results(rows, pairs), hidden), results, nil)
	}
	return nil
}

// room returns the rows that a step writes: in the output for the last step, else in a
// buffer of the node.
func (n *Node) room(b *kernel.Buffer, out *output, rows int, last bool) (kernel.Mat, error) {
	hidden := n.cfg.Spec.Hidden
	if last {
		return kernel.MatOf(out.Buffer, rows, hidden), nil
	}
	var err error
	*b, err = reserve(n.cfg.Device, *b, rows*hidden)
	return kernel.MatOf(*b, rows, hidden), err
}

// fill gathers the messages' rows and gate weights, expert by expert, and
// releases the messages: their senders may use the memory again.
func (n *Node) fill(ctx context.Context, g *route.Grouping, rows int) error {
	dev, hidden := n.cfg.Device, n.cfg.Spec.Hidden
	var err error
	if n.in, err = reserve(dev, n.in, rows*hidden); err != nil {
		return err
	}
	if n.gate, err = reserve(dev, n.gate, rows); err != nil {
		return err
	}
	in, gate := kernel.MatOf(n.in, rows, hidden), kernel.MatOf(n.gate, rows, 1)
	for i, d := range n.pending {
		dev.DecodeRows(in, g.Dst[i], d.rows, d.pairs.Row)
		dev.CopyRows(gate, g.Dst[i], d.gates, nil)
	}
	if err := dev.Record().Wait(ctx); err != nil {
		return err
	}
	for _, d := range n.pending {
		n.cfg.Endpoint.Release(d.completion)
	}
	return nil
}

// reserve returns a buffer of at least n elements: b if it is large enough, else a new
// one in its place.
func reserve(dev kernel.Memory, b kernel.Buffer, n int) (kernel.Buffer, error) {
	if b != nil && b.Len() >= n {
		return b, nil
	}
	if b != nil {
		dev.Free(b)
	}
	b, err := dev.Alloc(kernel.DeviceMemory, kernel.F32, n+n/4)
	if err != nil {
		return nil, fmt.Errorf("buffer of %d elements: %w", n, err)
	}
	return b, nil
}

// output returns a free output for results of so many bytes, a multiple of 4.
func (n *Node) output(bytes int) (*output, error) {
	var out *output
	if last := len(n.outputs) - 1; last >= 0 {
		out, n.outputs = n.outputs[last], n.outputs[:last]
		if 4*out.Buffer.Len() >= bytes {
			return out, nil
		}
		n.cfg.Device.Free(out.Buffer)
	}
	b, err := node.NewSendBuffer(n.cfg.Device, n.cfg.Endpoint, bytes+bytes/16*4)
	if err != nil {
		return nil, fmt.Errorf("results of %d bytes: %w", bytes, err)
	}
	return &output{SendBuffer: b}, nil
}

// count records how many rows each expert of a run had.
func (n *Node) count(offsets []int32) {
	for i := 1; i < len(offsets); i++ {
		if rows := offsets[i] - offsets[i-1]; rows > 0 {
			n.stats.Rows.Observe(float64(rows))
		}
	}
	counters := n.gather.Counters()
	n.stats.Update(func(s *node.Stats) { s.Gather = counters })
}

// address lists the places of all results, message after message.
func (n *Node) address(out *output) {
	n.places = n.places[:0]
	if n.cfg.Wire.Combine == route.Partial {
		n.places = append(n.places, n.sums.Places()...)
	} else {
		for _, p := range n.pairs {
			n.places = append(n.places, p.Place...)
		}
	}
	if size := route.PlacesSize(len(n.places)); out.places == nil || len(out.places.Bytes) < size {
		out.places = n.cfg.Endpoint.Register(make([]byte, size+size/4), nil)
	}
	route.PutPlaces(out.places.Bytes, n.places)
}

// answer posts each message's results, if the connection that the message came by still
// exists: a newer connection with the same node has not asked for them. A peer that
// cannot be reached is reported by its Lost completion.
func (n *Node) answer(run *gather.Run, g *route.Grouping, out *output) {
	ready := n.cfg.Device.Record()
	width := n.cfg.Wire.RowBytes(n.cfg.Spec.Hidden)
	n.address(out)
	place := 0
	for i, m := range run.Messages {
		h := n.pending[i].header
		h.Kind = route.Return
		runs, results := g.Runs[i], n.cfg.Wire.Results(h.Rows, h.Pairs)
		if n.cfg.Wire.Combine == route.Partial {
			runs = []route.Run{{From: place, Rows: h.Rows}}
		}
		var body []m2n.Span
		for _, r := range runs {
			body = append(body, m2n.Span{Region: out.Region, Off: r.From * width, Len: r.Rows * width})
		}
		body = append(body, m2n.Span{Region: out.places, Off: route.PlacesSize(place), Len: route.PlacesSize(results)})
		place += results
		if n.joined[m.Node].generation != n.pending[i].generation {
			continue
		}
		token, err := n.cfg.Endpoint.Post(m.Node, m2n.Message{Header: h.Append(nil), Body: body, Ready: ready})
		if err != nil {
			n.cfg.Log.Warn("results not returned", "peer", m.Node, "error", err)
			continue
		}
		out.parts++
		n.sending[node.Posted{Peer: m.Node, Token: token}] = out
	}
	if out.parts == 0 {
		n.outputs = append(n.outputs, out)
	}
}

// sent frees a run's output once all messages with its results have been sent.
func (n *Node) sent(c m2n.Completion) {
	key := node.Posted{Peer: c.Peer, Token: c.Token}
	out, ok := n.sending[key]
	if !ok {
		return
	}
	delete(n.sending, key)
	if out.parts--; out.parts == 0 {
		n.outputs = append(n.outputs, out)
	}
}
