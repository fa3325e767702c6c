package m2n

import (
	"fmt"
	"time"

	"github.com/tandem-moe/tandem/m2n/internal/wire"
)

// fabricCarrier carries a pair's messages over the endpoint's fabric. Each is the
// header of a frame, as TCP would have it, and the spans. The fabric may let them
// overtake each other: they are put in order by their numbers. Credits travel with
// messages, and on the lane when none goes that way.
type fabricCarrier struct {
	hub   *fabricHub
	conn  FabricConn
	pair  *pair
	slots *slots
	link  *wireLink // made by attach

	flying map[uint64]*outgoing // by token: with the fabric; guarded by pair.mu

	// Guarded by hub.moving:
	open    bool          // events are taken
	held    []FabricEvent // that came before
	over    bool          // its last event has come
	inOrder sequence
	parting error  // why the peer ends, once it has said so
	last    uint64 // the number of its last message then
}

// fabricHeaderBytes bounds what stands before a body: the frame's fixed part, the
// lengths of its spans, and the message's header.
func (c Config) fabricHeaderBytes() int { return wire.FixedBytes + 4*MaxSpans + c.HeaderBytes }

// open makes the receiving half for a pair. Until the carrier is started its
// events are kept.
func (h *fabricHub) open(p *pair) (*fabricCarrier, error) {
	memory, err := newSlots(p.ep)
	if err != nil {
		return nil, err
	}
	c := &fabricCarrier{hub: h, pair: p, slots: memory, flying: make(map[uint64]*outgoing), inOrder: sequence{ahead: uint64(p.ep.cfg.Slots)}}
	cfg := p.ep.cfg
	c.conn, err = h.fabric.Open(FabricReceiver{
		Owner: c, Memory: memory.region, Stride: memory.stride, Slots: cfg.Slots,
		SlotBytes: cfg.SlotBytes, HeaderBytes: cfg.fabricHeaderBytes(),
	})
	if err != nil {
		memory.unref()
		return nil, fmt.Errorf("fabric %s: %w", h.fabric.Name(), err)
	}
	memory.ref() // the hardware's
	h.add(c)
	return c, nil
}

// attach makes the link, whose one lane is s.
func (c *fabricCarrier) attach(s *stream, theirs greeting) error {
	l, err := newWireLink(c.pair, ucx, c.slots, []*stream{s}, theirs)
	if err != nil {
		c.slots.ref() // newWireLink has let go of it, and abandon does
		return err
	}
	l.carry = c
	c.hub.moving.Lock()
	defer c.hub.moving.Unlock()
	c.link = l
	return nil
}

// abandon is for a carrier that was never started.
func (c *fabricCarrier) abandon() {
	if c.link != nil {
		c.link.abandon() // closes the carrier
		return
	}
	c.close()
	c.slots.unref()
}

// start takes events from now on. The pair is up.
func (c *fabricCarrier) start() {
	c.hub.moving.Lock()
	c.open = true
	for i := range c.held {
		c.take(&c.held[i])
	}
	c.held = nil
	c.hub.moving.Unlock()
	c.link.start()
}

// flush hands to the fabric what can be sent, on the poster's goroutine.
func (c *fabricCarrier) flush() {
	for o, header := c.gather(); o != nil; o, header = c.gather() {
		if err := c.conn.Send(o.token, header, o.body); err != nil {
			c.sent(o.token, err)
			return
		}
	}
}

// gather takes a message and encodes its frame, with the credits that there are to
// give back.
func (c *fabricCarrier) gather() (*outgoing, []byte) {
	p, l := c.pair, c.link
	p.mu.Lock()
	defer p.mu.Unlock()
	o := p.next()
	if o == nil {
		return nil, nil
	}
	n := l.nextNumber()
	f := wire.Frame{
		Kind: wire.Data, Epoch: p.ep.cfg.Epoch, Seq: n, Number: n, Credits: uint32(l.back),
		Body: o.bytes, Lengths: o.lengths(), Header: o.header,
	}
	l.back = 0
	c.flying[o.token] = o
	return o, wire.AppendFrame(make([]byte, 0, wire.FixedBytes+4*len(f.Lengths)+len(f.Header)), &f)
}

// take takes an event. The caller holds hub.moving.
func (c *fabricCarrier) take(ev *FabricEvent) {
	if ev.Kind == FabricClosed {
		c.closed()
		return
	}
	if !c.open {
		c.held = append(c.held, *ev) // at most one per slot, and a failure
		return
	}
	switch ev.Kind {
	case FabricSent:
		c.sent(ev.Token, ev.Err)
	case FabricReceived:
		if err := c.receive(ev); err != nil {
			c.pair.fail(fmt.Errorf("message after %d: %w", c.inOrder.last, err))
		}
	case FabricFailed:
		c.pair.fail(ev.Err)
	}
}

// sent reports a message's spans as free. An error takes the pair down.
func (c *fabricCarrier) sent(token uint64, err error) {
	p := c.pair
	if err != nil {
		p.fail(err)
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	o := c.flying[token]
	delete(c.flying, token)
	if err != nil {
		p.sent(o, p.lostError())
		return
	}
	p.counters.sent[ucx].add(len(o.header) + o.bytes)
	p.counters.out(o.posted, o.taken)
	p.sent(o, nil)
}

// receive takes a message that is in a slot, and delivers it and those that waited
// for it.
func (c *fabricCarrier) receive(ev *FabricEvent) error {
	f, err := c.parse(ev)
	if err == nil {
		err = c.link.granted(int(f.Credits))
	}
	if err != nil {
		return err
	}
	if !c.slots.takeThis(ev.Slot) {
		return fmt.Errorf("%w: it is in slot %d, which holds another", ErrBadFrame, ev.Slot)
	}
	if err := c.inOrder.take(arrival{f, ev.Slot, time.Now()}, c.link.deliver); err != nil {
		return err
	}
	if c.parting != nil && c.inOrder.last >= c.last {
		c.pair.fail(c.parting)
	}
	c.link.giveBackIfUrgent(0)
	return nil
}

// parse reads the frame that stands before a body, and checks all that it says.
func (c *fabricCarrier) parse(ev *FabricEvent) (wire.Frame, error) {
	cfg := c.pair.ep.cfg
	f, err := wire.ParseMessage(ev.Header, ev.Body, wire.Bounds{Header: cfg.HeaderBytes, Spans: wire.MaxSpans, Body: cfg.SlotBytes})
	if err != nil {
		return f, err
	}
	if f.Epoch != c.pair.epoch {
		return f, fmt.Errorf("%w: it is of epoch %d, the peer of %d", ErrBadFrame, f.Epoch, c.pair.epoch)
	}
	return f, c.inOrder.check(f.Number)
}

// giveBack takes a slot from the receiver. It is empty for the hardware before the
// peer hears of it.
func (c *fabricCarrier) giveBack(slot int) {
	c.slots.put(slot)
	c.conn.Refill(slot)
	c.link.giveBackIfUrgent(1)
}

// settle takes what has arrived. The peer has said goodbye after its message of
// that number; where that is still to come, the pair is failed by it, or when it
// does not come.
func (c *fabricCarrier) settle(last uint64, cause error) bool {
	c.hub.moving.Lock()
	defer c.hub.moving.Unlock()
	if c.inOrder.last >= last {
		return true
	}
	c.last, c.parting = last, cause
	p := c.pair
	p.ep.spawn(func() {
		late := time.NewTimer(p.ep.cfg.PeerTimeout / 4)
		defer late.Stop()
		select {
		case <-late.C:
			p.fail(cause)
		case <-p.ctx.Done():
		}
	})
	return false
}

// close cancels what is under way.
func (c *fabricCarrier) close() { c.conn.Close() }

// closed is called when nothing touches the slots any more, nor any span.
func (c *fabricCarrier) closed() {
	if c.over {
		return
	}
	c.over = true
	c.hub.remove(c)
	c.lose()
	c.inOrder.drop(c.slots)
	c.slots.unref()
}

// lose reports what the fabric has not.
func (c *fabricCarrier) lose() {
	p := c.pair
	p.mu.Lock()
	defer p.mu.Unlock()
	for token, o := range c.flying {
		delete(c.flying, token)
		p.sent(o, p.lostError())
	}
}
