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
type fabricTransport struct {
	hub   *fabricHub
	conn  FabricConn
	pair  *pair
	slots *receiveWindow
	link  *wireLink // made by attach

	inFlight map[uint64]*outgoing // by token: with the fabric; guarded by pair.mu

	// Guarded by hub.moving:
	started    bool          // events are taken
	heldEvents []FabricEvent // that came before
	closedSeen bool          // its last event has come
	reorder    reorderBuffer
	peerCause  error  // why the peer ends, once it has said so
	lastOfPeer uint64 // the number of its last message then
}

// fabricHeaderBytes bounds what stands before a body: the frame's fixed part, the
// lengths of its spans, and the message's header.
func (c Config) fabricHeaderBytes() int { return wire.FixedBytes + 4*wire.MaxSpans + c.HeaderBytes }

// open makes the receiving half for a pair. Until the carrier is started its
// events are kept.
func (h *fabricHub) open(p *pair) (*fabricTransport, error) {
	memory, err := newReceiveWindow(p.ep)
	if err != nil {
		return nil, err
	}
	c := &fabricTransport{hub: h, pair: p, slots: memory, inFlight: make(map[uint64]*outgoing), reorder: reorderBuffer{window: uint64(p.ep.cfg.Slots)}}
	cfg := p.ep.cfg
	c.conn, err = h.fabric.Open(FabricReceiver{
		Owner: c, Memory: memory.region, Stride: memory.stride, Slots: cfg.Slots,
		SlotBytes: cfg.SlotBytes, HeaderBytes: cfg.fabricHeaderBytes(),
	})
	if err != nil {
		memory.release()
		return nil, fmt.Errorf("fabric %s: %w", h.fabric.Name(), err)
	}
	memory.retain() // the hardware's
	h.add(c)
	return c, nil
}

// attach makes the link, whose one lane is s.
func (c *fabricTransport) makeLink(s *handshakeConn, theirs greeting) error {
	l, err := newWireLink(c.pair, viaUCX, c.slots, []*handshakeConn{s}, theirs)
	if err != nil {
		c.slots.retain() // newWireLink has let go of it, and abandon does
		return err
	}
	l.transport = c
	c.hub.progressMu.Lock()
	defer c.hub.progressMu.Unlock()
	c.link = l
	return nil
}

// abandon is for a carrier that was never started.
func (c *fabricTransport) abandon() {
	if c.link != nil {
		c.link.abandon() // closes the carrier
		return
	}
	c.close()
	c.slots.release()
}

// start takes events from now on. The pair is up.
func (c *fabricTransport) start() {
	c.hub.progressMu.Lock()
	c.started = true
	for i := range c.heldEvents {
		c.handle(&c.heldEvents[i])
	}
	c.heldEvents = nil
	c.hub.progressMu.Unlock()
	c.link.start()
}

// flush hands to the fabric what can be sent, on the poster's goroutine.
func (c *fabricTransport) flush() {
	for o, header := c.gather(); o != nil; o, header = c.gather() {
		if err := c.conn.Send(o.token, header, o.body); err != nil {
			c.sent(o.token, err)
			return
		}
	}
}

// gather takes a message and encodes its frame, with the credits that there are to
// give back.
func (c *fabricTransport) gather() (*outgoing, []byte) {
	p, l := c.pair, c.link
	p.mu.Lock()
	defer p.mu.Unlock()
	o := p.dequeue()
	if o == nil {
		return nil, nil
	}
	n := l.nextNumber()
	f := wire.Frame{
		Kind: wire.Data, Epoch: p.ep.cfg.Epoch, Seq: n, Number: n, Credits: l.window.grant(),
		Body: o.bytes, Lengths: o.lengths(), Header: o.header,
	}
	c.inFlight[o.token] = o
	return o, wire.AppendFrame(make([]byte, 0, wire.FixedBytes+4*len(f.Lengths)+len(f.Header)), &f)
}

// take takes an event. The caller holds hub.moving.
func (c *fabricTransport) handle(ev *FabricEvent) {
	if ev.Kind == FabricClosed {
		c.closed()
		return
	}
	if !c.started {
		c.heldEvents = append(c.heldEvents, *ev) // at most one per slot, and a failure
		return
	}
	switch ev.Kind {
	case FabricSent:
		c.sent(ev.Token, ev.Err)
	case FabricReceived:
		if err := c.receive(ev); err != nil {
			c.pair.fail(fmt.Errorf("message after %d: %w", c.reorder.last, err))
		}
	case FabricFailed:
		c.pair.fail(ev.Err)
	}
}

// sent reports a message's spans as free. An error takes the pair down.
func (c *fabricTransport) sent(token uint64, err error) {
	p := c.pair
	if err != nil {
		p.fail(err)
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	o := c.inFlight[token]
	delete(c.inFlight, token)
	if err != nil {
		p.sent(o, p.lostError())
		return
	}
	p.counters.sent[viaUCX].add(len(o.header) + o.bytes)
	p.counters.noteSent(o.posted, o.dequeued)
	p.sent(o, nil)
}

// receive takes a message that is in a slot, and delivers it and those that waited
// for it.
func (c *fabricTransport) receive(ev *FabricEvent) error {
	f, err := c.parse(ev)
	if err == nil {
		err = c.link.acceptCredits(int(f.Credits))
	}
	if err != nil {
		return err
	}
	if !c.slots.claim(ev.Slot) {
		return fmt.Errorf("%w: it is in slot %d, which holds another", ErrBadFrame, ev.Slot)
	}
	if err := c.reorder.accept(arrival{f, ev.Slot, time.Now()}, c.link.deliver); err != nil {
		return err
	}
	if c.peerCause != nil && c.reorder.last >= c.lastOfPeer {
		c.pair.fail(c.peerCause)
	}
	c.link.sendDueGrant()
	return nil
}

// parse reads the frame that stands before a body, and checks all that it says.
func (c *fabricTransport) parse(ev *FabricEvent) (wire.Frame, error) {
	cfg := c.pair.ep.cfg
	f, err := wire.ParseMessage(ev.Header, ev.Body, wire.Bounds{Header: cfg.HeaderBytes, Spans: wire.MaxSpans, Body: cfg.SlotBytes})
	if err != nil {
		return f, err
	}
	if f.Epoch != c.pair.epoch {
		return f, fmt.Errorf("%w: it is of epoch %d, the peer of %d", ErrBadFrame, f.Epoch, c.pair.epoch)
	}
	return f, c.reorder.check(f.Number)
}

// giveBack takes a slot from the receiver. It is empty for the hardware before the
// peer hears of it.
func (c *fabricTransport) releaseSlot(slot int) {
	c.slots.free(slot)
	c.conn.Refill(slot)
	c.link.owe()
}

// settle takes what has arrived. The peer has said goodbye after its message of
// that number; where that is still to come, the pair is failed by it, or when it
// does not come.
func (c *fabricTransport) endAfter(last uint64, cause error) bool {
	c.hub.progressMu.Lock()
	defer c.hub.progressMu.Unlock()
	if c.reorder.last >= last {
		return true
	}
	c.lastOfPeer, c.peerCause = last, cause
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
func (c *fabricTransport) close() { c.conn.Close() }

// closed is called when nothing touches the slots any more, nor any span.
func (c *fabricTransport) closed() {
	if c.closedSeen {
		return
	}
	c.closedSeen = true
	c.hub.remove(c)
	c.reportInFlight()
	c.reorder.discard(c.slots)
	c.slots.release()
}

// lose reports what the fabric has not.
func (c *fabricTransport) reportInFlight() {
	p := c.pair
	p.mu.Lock()
	defer p.mu.Unlock()
	for token, o := range c.inFlight {
		delete(c.inFlight, token)
		p.sent(o, p.lostError())
	}
}
