package m2n

import (
	"fmt"
	"time"

	"github.com/tandem-moe/tandem/m2n/internal/wire"
)

// fabricTransport carries a pair's messages over the endpoint's fabric. Each message is
// the head of a frame, as on TCP, and the spans. The fabric may let messages overtake
// each other: their numbers put them in order. Credits travel with messages, and on the
// lane where none goes that way.
type fabricTransport struct {
	hub    *fabricHub
	conn   FabricConn
	pair   *pair
	window *receiveWindow
	link   *wireLink // made by makeLink

	inFlight map[uint64]*outgoing // by token: with the fabric; guarded by pair.mu

	// Guarded by hub.progressMu:
	started    bool          // events are handled
	heldEvents []FabricEvent // that came before that
	finished   bool          // FabricClosed has come
	reorder    reorderBuffer
	peerCause  error  // why the peer ends the pair, once it has said so
	lastOfPeer uint64 // the number of the peer's last message, with peerCause
}

// fabricHeaderBytes bounds what stands before a body: the frame's fixed part, the
// lengths of its spans, and the message's header.
func (c Config) fabricHeaderBytes() int {
	return wire.FixedBytes + 4*wire.MaxSpans + c.HeaderBytes
}

// open makes the receiving half of a pair's connection. Its events are held until start.
func (h *fabricHub) open(p *pair) (*fabricTransport, error) {
	window, err := newReceiveWindow(p.ep)
	if err != nil {
		return nil, err
	}
	t := &fabricTransport{hub: h, pair: p, window: window, inFlight: make(map[uint64]*outgoing), reorder: reorderBuffer{window: uint64(p.ep.cfg.Slots)}}
	cfg := p.ep.cfg
	t.conn, err = h.fabric.Open(FabricReceiver{
		Owner: t, Memory: window.region, Stride: window.stride, Slots: cfg.Slots,
		SlotBytes: cfg.SlotBytes, HeaderBytes: cfg.fabricHeaderBytes(),
	})
	if err != nil {
		window.release()
		return nil, fmt.Errorf("fabric %s: %w", h.fabric.Name(), err)
	}
	window.retain() // the hardware writes to it until finish
	h.add(t)
	return t, nil
}

// makeLink makes the link, whose one lane is c.
func (t *fabricTransport) makeLink(c *handshakeConn, theirs greeting) error {
	l, err := newWireLink(t.pair, viaUCX, t.window, []*handshakeConn{c}, theirs)
	if err != nil {
		t.window.retain() // newWireLink has released it, and abandon will
		return err
	}
	l.transport = t
	t.hub.progressMu.Lock()
	defer t.hub.progressMu.Unlock()
	t.link = l
	return nil
}

// abandon closes a transport that was never started.
func (t *fabricTransport) abandon() {
	if t.link != nil {
		t.link.abandon() // closes the transport
		return
	}
	t.close()
	t.window.release()
}

// start handles events from now on. The pair is up.
func (t *fabricTransport) start() {
	t.hub.progressMu.Lock()
	t.started = true
	for i := range t.heldEvents {
		t.handle(&t.heldEvents[i])
	}
	t.heldEvents = nil
	t.hub.progressMu.Unlock()
	t.link.start()
}

// flush hands to the fabric what can be sent, on the caller's goroutine.
func (t *fabricTransport) flush() {
	for o, head := t.beginSend(); o != nil; o, head = t.beginSend() {
		if err := t.conn.Send(o.token, head, o.body); err != nil {
			t.finishSend(o.token, err)
			return
		}
	}
}

// beginSend dequeues a message and encodes the head of its frame, with the credits that
// this end owes.
func (t *fabricTransport) beginSend() (*outgoing, []byte) {
	p, l := t.pair, t.link
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
	t.inFlight[o.token] = o
	return o, wire.AppendFrame(make([]byte, 0, wire.FixedBytes+4*len(f.Lengths)+len(f.Header)), &f)
}

// handle handles an event. The caller holds hub.progressMu.
func (t *fabricTransport) handle(ev *FabricEvent) {
	if ev.Kind == FabricClosed {
		t.finish()
		return
	}
	if !t.started {
		t.heldEvents = append(t.heldEvents, *ev) // at most one per slot, and a failure
		return
	}
	switch ev.Kind {
	case FabricSent:
		t.finishSend(ev.Token, ev.Err)
	case FabricReceived:
		if err := t.receive(ev); err != nil {
			t.pair.fail(fmt.Errorf("message after %d: %w", t.reorder.last, err))
		}
	case FabricFailed:
		t.pair.fail(ev.Err)
	}
}

// finishSend reports a message as sent, or fails the pair.
func (t *fabricTransport) finishSend(token uint64, err error) {
	p := t.pair
	if err != nil {
		p.fail(err)
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	o := t.inFlight[token]
	delete(t.inFlight, token)
	if err != nil {
		p.sent(o, p.lostError())
		return
	}
	p.counters.sent[viaUCX].add(len(o.header) + o.bytes)
	p.counters.noteSent(o.posted, o.dequeued)
	p.sent(o, nil)
}

// receive takes the message of an event, and delivers it when those before it are here.
func (t *fabricTransport) receive(ev *FabricEvent) error {
	f, err := t.parse(ev)
	if err == nil {
		err = t.link.acceptCredits(int(f.Credits))
	}
	if err != nil {
		return err
	}
	if !t.window.claim(ev.Slot) {
		return fmt.Errorf("%w: it is in slot %d, which holds another", ErrBadFrame, ev.Slot)
	}
	if err := t.reorder.accept(arrival{f, ev.Slot, time.Now()}, t.link.deliver); err != nil {
		return err
	}
	if t.peerCause != nil && t.reorder.last >= t.lastOfPeer {
		t.pair.fail(t.peerCause)
	}
	t.link.sendDueGrant()
	return nil
}

// parse reads the head of the frame, and checks all that it says.
func (t *fabricTransport) parse(ev *FabricEvent) (wire.Frame, error) {
	cfg := t.pair.ep.cfg
	f, err := wire.ParseMessage(ev.Header, ev.Body, wire.Bounds{Header: cfg.HeaderBytes, Spans: wire.MaxSpans, Body: cfg.SlotBytes})
	if err != nil {
		return f, err
	}
	if f.Epoch != t.pair.epoch {
		return f, fmt.Errorf("%w: it is of epoch %d, the peer of %d", ErrBadFrame, f.Epoch, t.pair.epoch)
	}
	return f, t.reorder.check(f.Number)
}

// releaseSlot refills the slot before it gives a credit back: the peer may use the
// credit at once, and the hardware then needs the slot.
func (t *fabricTransport) releaseSlot(slot int) {
	t.window.free(slot)
	t.conn.Refill(slot)
	t.link.owe()
}

// endAfter returns true where the peer's last message has arrived. Else the pair fails
// when that message comes, or is late.
func (t *fabricTransport) endAfter(last uint64, cause error) bool {
	t.hub.progressMu.Lock()
	defer t.hub.progressMu.Unlock()
	if t.reorder.last >= last {
		return true
	}
	t.lastOfPeer, t.peerCause = last, cause
	p := t.pair
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

// close cancels what is under way. FabricClosed follows.
func (t *fabricTransport) close() { t.conn.Close() }

// finish is called when the fabric touches neither slots nor spans any more. The caller
// holds hub.progressMu.
func (t *fabricTransport) finish() {
	if t.finished {
		return
	}
	t.finished = true
	t.hub.remove(t)
	t.reportInFlight()
	t.reorder.discard(t.window)
	t.window.release()
}

// reportInFlight reports messages as lost that the fabric has not reported as sent.
func (t *fabricTransport) reportInFlight() {
	p := t.pair
	p.mu.Lock()
	defer p.mu.Unlock()
	for token, o := range t.inFlight {
		delete(t.inFlight, token)
		p.sent(o, p.lostError())
	}
}
