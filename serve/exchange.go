package serve

import (
	"context"
	"fmt"

	"github.com/tandem-moe/tandem/kernel"
	"github.com/tandem-moe/tandem/layer"
	"github.com/tandem-moe/tandem/m2n"
	"github.com/tandem-moe/tandem/route"
)

// exchange is a micro-batch's traffic with the expert nodes: the rows of one
// layer on their way out, and the results on their way back.
//
// Its send buffers are reused from layer to layer without waiting for the
// transport's Sent: an expert node releases a dispatch before it returns the
// results, and a layer's results must all be here before the next dispatch.
type exchange struct {
	dev      kernel.Device
	ep       *m2n.Endpoint
	hidden   int
	topK     int
	splitter *route.Splitter

	rows  sendBuffer // [rows of all packets, hidden]
	gates sendBuffer // [pairs of all packets, 1]
	pairs *m2n.Region
	parts kernel.Buffer // [rows·topK, hidden], by choice
	order []int32       // 0, 1, 2, …: where Combine finds choice i

	packets []route.Packet
	sent    route.Header
	waiting int  // packets without results
	pending bool // results that have not been combined
}

// sendBuffer is device memory that the transport reads.
type sendBuffer struct {
	buffer kernel.Buffer
	region *m2n.Region
}

func newSendBuffer(dev kernel.Device, ep *m2n.Endpoint, elements int) (sendBuffer, error) {
	b, err := dev.Alloc(kernel.F32, elements)
	if err != nil {
		return sendBuffer{}, err
	}
	return sendBuffer{buffer: b, region: ep.Register(b.Bytes(), b)}, nil
}

// newExchange makes the traffic of micro-batches of at most capacity rows.
func newExchange(dev kernel.Device, ep *m2n.Endpoint, p route.Placement, capacity, hidden, topK int) (*exchange, error) {
	x := &exchange{
		dev: dev, ep: ep, hidden: hidden, topK: topK,
		splitter: route.NewSplitter(p, topK),
		pairs:    ep.Register(make([]byte, route.PairsSize(capacity*topK)), nil),
		order:    make([]int32, capacity*topK),
	}
	for i := range x.order {
		x.order[i] = int32(i)
	}
	var err error
	if x.rows, err = newSendBuffer(dev, ep, capacity*min(topK, p.Nodes)*hidden); err != nil {
		return nil, fmt.Errorf("buffers of a micro-batch of %d rows: %w", capacity, err)
	}
	if x.gates, err = newSendBuffer(dev, ep, capacity*topK); err != nil {
		return nil, fmt.Errorf("buffers of a micro-batch of %d rows: %w", capacity, err)
	}
	if x.parts, err = dev.Alloc(kernel.F32, capacity*topK*hidden); err != nil {
		return nil, fmt.Errorf("buffers of a micro-batch of %d rows: %w", capacity, err)
	}
	return x, nil
}

// free gives the memory back.
func (x *exchange) free() {
	for _, b := range []kernel.Buffer{x.rows.buffer, x.gates.buffer, x.parts} {
		x.dev.Free(b)
	}
}

// pack splits a layer's rows by expert node, and returns the bodies of the
// messages: one to every node, zero rows included.
func (x *exchange) pack(ctx context.Context, r *layer.Rows, h route.Header) ([][]m2n.Span, error) {
	if err := x.dev.Record().Wait(ctx); err != nil {
		return nil, fmt.Errorf("layer %d: %w", h.Layer, err)
	}
	var err error
	if x.packets, err = x.splitter.Split(r.Choice.Bytes(), r.Residual.Rows); err != nil {
		return nil, fmt.Errorf("layer %d: %w", h.Layer, err)
	}
	x.sent, x.waiting, x.pending = h, len(x.packets), true
	return x.copy(r), nil
}

// post sends what pack made to the expert nodes.
func (x *exchange) post(nodes []string, bodies [][]m2n.Span) error {
	h, ready := x.sent, x.dev.Record()
	for i, p := range x.packets {
		h.Rows, h.Pairs = len(p.Rows), len(p.Row)
		message := m2n.Message{Header: h.Append(nil), Body: bodies[i], Ready: ready}
		if _, err := x.ep.Post(nodes[i], message); err != nil {
			return lost(nodes[i], err)
		}
	}
	return nil
}

// copy brings each packet's rows, gate weights and pairs to the send buffers.
func (x *exchange) copy(r *layer.Rows) [][]m2n.Span {
	bodies := make([][]m2n.Span, len(x.packets))
	rows := kernel.MatOf(x.rows.buffer, x.rows.buffer.Len()/x.hidden, x.hidden)
	gates := kernel.MatOf(x.gates.buffer, len(x.order), 1)
	row, pair := 0, 0
	for i, p := range x.packets {
		nr, np := len(p.Rows), len(p.Row)
		x.dev.CopyRows(rows.RowRange(row, row+nr), nil, r.Normed, p.Rows)
		x.dev.CopyRows(gates.RowRange(pair, pair+np), nil, kernel.MatOf(r.Gate, len(x.order), 1), p.Choice)
		lo, hi := route.PairsSize(pair), route.PairsSize(pair+np)
		route.PutPairs(x.pairs.Bytes[lo:hi], p)
		bodies[i] = []m2n.Span{
			{Region: x.rows.region, Off: 4 * row * x.hidden, Len: 4 * nr * x.hidden},
			{Region: x.gates.region, Off: 4 * pair, Len: 4 * np},
			{Region: x.pairs, Off: lo, Len: hi - lo},
		}
		row, pair = row+nr, pair+np
	}
	return bodies
}

// expects says whether a return belongs to the dispatch under way; an older one
// is of a step that was given up.
func (x *exchange) expects(h route.Header) bool {
	return x.waiting > 0 && h.Step == x.sent.Step && h.Layer == x.sent.Layer
}

// collect takes one expert node's results: runs of rows in the order of its
// packet's pairs.
func (x *exchange) collect(ctx context.Context, node int, body []m2n.Span) error {
	choices := x.packets[node].Choice
	parts := kernel.MatOf(x.parts, len(x.order), x.hidden)
	for _, span := range body {
		results, err := matOfSpan(span, x.hidden)
		if err != nil {
			return err
		}
		if results.Rows > len(choices) {
			return fmt.Errorf("more results than the %d asked for", len(x.packets[node].Choice))
		}
		x.dev.CopyRows(parts, choices[:results.Rows], results, nil)
		choices = choices[results.Rows:]
	}
	if len(choices) > 0 {
		return fmt.Errorf("%d results are missing of %d", len(choices), len(x.packets[node].Choice))
	}
	x.waiting--
	// The spans are given back next: what reads them must be done.
	return x.dev.Record().Wait(ctx)
}

// combine adds the results to the residual stream.
func (x *exchange) combine(a *layer.Attention, r *layer.Rows) {
	x.pending = false
	n := r.Residual.Rows * x.topK
	a.Combine(r, kernel.MatOf(x.parts, n, x.hidden), x.order[:n])
}

// matOfSpan views a received span as rows of cols F32 elements.
func matOfSpan(s m2n.Span, cols int) (kernel.Mat, error) {
	buffer, ok := s.Region.User.(kernel.Buffer)
	if !ok {
		return kernel.Mat{}, fmt.Errorf("%d bytes of a message do not lie in a device's memory", s.Len)
	}
	if s.Off%4 != 0 || s.Len%(4*cols) != 0 {
		return kernel.Mat{}, fmt.Errorf("%d bytes at %d of a message are not rows of %d f32", s.Len, s.Off, cols)
	}
	return kernel.Mat{Buf: buffer, Off: s.Off / 4, Rows: s.Len / (4 * cols), Cols: cols, Stride: cols}, nil
}
