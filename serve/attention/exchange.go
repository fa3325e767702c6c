package attention

import (
	"context"
	"errors"
	"fmt"

	"github.com/tandem-moe/tandem/kernel"
	"github.com/tandem-moe/tandem/layer"
	"github.com/tandem-moe/tandem/m2n"
	"github.com/tandem-moe/tandem/route"
	"github.com/tandem-moe/tandem/serve/attention/dispatch"
	"github.com/tandem-moe/tandem/serve/node"
)

// exchange is a micro-batch's traffic with the expert nodes: the rows of one
// layer on their way out, and the results on their way back. What may happen when,
// the Dispatch says; this shell does what it takes on the device and the endpoint.
// The send buffers are the transport's from post until the Dispatch is Free again,
// which it mostly is when the results are there.
type exchange struct {
	*dispatch.Dispatch
	dev    kernel.Device
	ep     *m2n.Endpoint
	hidden int
	topK   int
	wire   route.Wire
	// placement is the version by which the splitter splits the step under way.
	placement uint64
	splitter  *route.Splitter
	returns   *route.Returns

	rows    node.SendBuffer // [rows of all packets, hidden], in the wire's format
	gates   node.SendBuffer // [pairs of all packets, 1]
	pairs   *m2n.Region
	choices int // room of gates, pairs, and the router's output
	// results are [n, hidden]: by choice, or, where nodes return sums,
	// packet after packet; sums says who adds which.
	results kernel.Buffer
	sums    *route.Sums

	packets []route.Packet
	header  route.Header // of the messages, without the counts of each
}

// newExchange makes the traffic of micro-batches of at most capacity rows.
func newExchange(dev kernel.Device, ep *m2n.Endpoint, p route.Placement, wire route.Wire, capacity, hidden, topK int) (*exchange, error) {
	x := &exchange{
		Dispatch: dispatch.New(p.Nodes), dev: dev, ep: ep, hidden: hidden, topK: topK, wire: wire,
		returns: route.NewReturns(topK, wire.Combine),
		choices: capacity * topK,
		pairs:   ep.Register(make([]byte, route.PairsSize(capacity*topK)), nil),
		sums:    route.ByChoice(capacity, topK),
	}
	x.use(p)
	rows, pairs := capacity*min(topK, p.Nodes), capacity*topK // of all packets
	if err := x.allocate(rows, pairs); err != nil {
		x.free()
		return nil, fmt.Errorf("buffers of a micro-batch of %d rows: %w", capacity, err)
	}
	return x, nil
}

// allocate makes room for the rows and pairs of all packets. What it has made when
// it fails, free gives back.
func (x *exchange) allocate(rows, pairs int) (err error) {
	if x.rows, err = node.NewSendBuffer(x.dev, x.ep, rows*x.wire.RowBytes(x.hidden)); err != nil {
		return err
	}
	if x.gates, err = node.NewSendBuffer(x.dev, x.ep, 4*pairs); err != nil {
		return err
	}
	x.results, err = x.dev.Alloc(kernel.DeviceMemory, kernel.F32, x.wire.Results(rows, pairs)*x.hidden)
	return err
}

// use has the next step split by a placement, which has as many nodes as the one
// before.
func (x *exchange) use(p route.Placement) {
	if x.splitter == nil || x.placement != p.Version {
		x.placement, x.splitter = p.Version, route.NewSplitter(p, x.topK, x.wire.Combine)
	}
}

// free gives the memory back.
func (x *exchange) free() { node.FreeAll(x.dev, x.rows.Buffer, x.gates.Buffer, x.results) }

// pack splits a layer's rows by expert node, and returns the bodies of the
// messages: one to every node, zero rows included.
func (x *exchange) pack(ctx context.Context, r *layer.Activations, h route.Header) ([][]m2n.Span, error) {
	if x.splitter.ReadsGates(h.Layer) {
		r.TopKWeights.Fetch(x.dev, r.Residual.Rows*x.topK)
	}
	if err := x.dev.Record().Wait(ctx); err != nil {
		return nil, fmt.Errorf("layer %d: %w", h.Layer, err)
	}
	var err error
	if x.packets, err = x.split(h.Layer, r); err != nil {
		return nil, fmt.Errorf("layer %d: %w", h.Layer, err)
	}
	x.returns.Expect(x.packets, r.Residual.Rows)
	if x.wire.Combine == route.Partial {
		x.sums.ByNode(x.packets, r.Residual.Rows)
	}
	h.Wire, h.Placement = x.wire, x.placement
	x.header = h
	x.Pack(dispatch.Point{Step: h.Step, Layer: h.Layer})
	return x.copy(r), nil
}

// split splits a layer's rows by what its router has chosen.
func (x *exchange) split(l int, r *layer.Activations) ([]route.Packet, error) {
	return x.splitter.Split(l, r.TopKIDs.Host().Bytes(), r.TopKWeights.Host().Bytes(), r.Residual.Rows)
}

// post sends what pack made to the expert node of a place.
func (x *exchange) post(place int, id string, body []m2n.Span, ready m2n.Event) error {
	p, h := &x.packets[place], x.header
	h.Rows, h.Pairs = len(p.Rows), len(p.Row)
	token, err := x.ep.Post(id, m2n.Message{Header: h.Append(nil), Body: body, Ready: ready})
	if err == nil {
		x.Posted(place, token)
	}
	return err
}

// copy brings each packet's rows, in the wire's format, gate weights and pairs
// to the send buffers.
func (x *exchange) copy(r *layer.Activations) [][]m2n.Span {
	bodies := make([][]m2n.Span, len(x.packets))
	width := x.wire.RowBytes(x.hidden)
	rows := kernel.CodedMatOf(x.rows.Buffer, x.wire.Rows, 4*x.rows.Buffer.Len()/width, x.hidden)
	gates := kernel.MatOf(x.gates.Buffer, x.choices, 1)
	row, pair := 0, 0
	for i, p := range x.packets {
		nr, np := len(p.Rows), len(p.Row)
		x.dev.EncodeRows(rows.RowRange(row, row+nr), r.Normed, p.Rows)
		x.dev.CopyRows(gates.RowRange(pair, pair+np), nil, kernel.MatOf(r.TopKWeights.Buffer, x.choices, 1), p.Choice)
		lo, hi := route.PairsSize(pair), route.PairsSize(pair+np)
		route.PutPairs(x.pairs.Bytes[lo:hi], p)
		bodies[i] = []m2n.Span{
			{Region: x.rows.Region, Off: row * width, Len: nr * width},
			{Region: x.gates.Region, Off: 4 * pair, Len: 4 * np},
			{Region: x.pairs, Off: lo, Len: hi - lo},
		}
		row, pair = row+nr, pair+np
	}
	return bodies
}

// collect takes one expert node's results, which Returned has let pass: rows, in one span
// or several, and then the place of each. The device reads body until it is done with
// what is enqueued, also where there is an error.
func (x *exchange) collect(place int, h route.Header, body []m2n.Span) error {
	if h.Wire != x.wire {
		return fmt.Errorf("results come by %v, this node takes %v", h.Wire, x.wire)
	}
	if err := h.ToSender(); err != nil {
		return err
	}
	results, total, err := x.resultsOf(body)
	if err != nil {
		return err
	}
	slots, err := x.returns.Take(place, total, body[len(body)-1].Bytes())
	if err != nil {
		return err
	}
	parts := kernel.MatOf(x.results, x.results.Len()/x.hidden, x.hidden)
	for _, m := range results {
		x.dev.DecodeRows(parts, slots[:m.Rows], m, nil)
		slots = slots[m.Rows:]
	}
	return nil
}

// resultsOf views the results in a body whose last span is their places, and counts them.
func (x *exchange) resultsOf(body []m2n.Span) (results []kernel.CodedMat, total int, err error) {
	if len(body) == 0 {
		return nil, 0, errors.New("the message has no places of results")
	}
	for _, span := range body[:len(body)-1] {
		m, err := node.CodedOfSpan(span, x.wire.Rows, x.hidden)
		if err != nil {
			return nil, 0, err
		}
		results, total = append(results, m), total+m.Rows
	}
	return results, total, nil
}

// combine adds the results to the residual stream.
func (x *exchange) combine(a *layer.Attention, r *layer.Activations) {
	x.Combine()
	results, offsets := x.sums.First(r.Residual.Rows)
	a.Combine(r, kernel.MatOf(x.results, x.results.Len()/x.hidden, x.hidden), results, offsets)
}
