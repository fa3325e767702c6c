package m2n

import (
	"fmt"
	"sync"

	"github.com/tandem-moe/tandem/m2n/internal/shm"
	"github.com/tandem-moe/tandem/m2n/internal/wire"
)

// shmTransport carries a pair's messages through two rings: this end receives from
// its own and sends into the peer's. Slots and credits are the same here: the sender
// knows which of the peer's slots are free, and has a credit for each.
type shmTransport struct {
	link      *wireLink
	in        *shm.Ring    // this end's: the peer writes messages, this end returns
	out       *shm.Ring    // the peer's: this end writes messages, the peer returns
	peer      shm.Doorbell // tells the peer that one of the rings has something for it
	letGo     func()       // unmaps the peer's memory and frees this end's doorbell
	readingMu sync.Mutex
	givingMu  sync.Mutex

	// Guarded by pair.mu:
	sending   bool   // a goroutine writes a message
	closed    bool   // the peer's memory is unmapped once nothing is sending
	freeSlots []int  // of the peer, that can be written
	lent      []bool // by the peer's slot: this end wrote it and the peer has not returned it
	posted    uint64 // messages written
	collected uint64 // returns read

	// Guarded by readingMu:
	read uint64 // messages read
	deaf bool   // nothing is read any more: the pair is down

	// Guarded by givingMu:
	given uint64 // returns written
	gone  bool   // nothing is returned any more
}

func newSHMTransport(l *wireLink, in, out *shm.Ring, peer shm.Doorbell, letGo func()) *shmTransport {
	t := &shmTransport{link: l, in: in, out: out, peer: peer, letGo: letGo, lent: make([]bool, out.Slots)}
	for i := range out.Slots {
		t.freeSlots = append(t.freeSlots, out.Slots-1-i)
	}
	return t
}

// flush copies the messages that can be sent into the peer's slots, on the caller's
// goroutine. While another goroutine does so it returns at once: that goroutine sends
// these messages too.
func (t *shmTransport) flush() {
	for {
		o, slot := t.beginSend()
		if o == nil {
			return
		}
		w := t.out.Write(slot)
		for _, s := range o.body {
			w.Span(s.Bytes())
		}
		t.out.Publish(t.posted, w, o.header, o.posted)
		t.posted++
		t.peer.Signal()
		t.finishSend(o)
	}
}

// beginSend dequeues a message and picks a slot for it. Where it returns a message the
// caller has to write it.
func (t *shmTransport) beginSend() (*outgoing, int) {
	p := t.link.pair
	p.mu.Lock()
	defer p.mu.Unlock()
	if t.sending || p.phase != up {
		return nil, 0
	}
	if p.queue.len() > 0 && p.send.credit == 0 && !t.collectReturns() {
		t.out.Starving().Store(1)
		t.collectReturns() // those that the peer wrote before it could see the flag
	}
	o := p.dequeue()
	if o == nil {
		return nil, 0
	}
	slot := t.freeSlots[len(t.freeSlots)-1]
	t.freeSlots = t.freeSlots[:len(t.freeSlots)-1]
	t.lent[slot] = true
	t.sending = true
	p.writing++
	return o, slot
}

// collectReturns takes the slots that the peer has returned, with a credit each, and
// reports whether there is a credit now. A return that cannot be is the peer's
// mistake, and fails the pair. The caller holds pair.mu.
func (t *shmTransport) collectReturns() bool {
	p := t.link.pair
	n := t.out.Returned().Load()
	for ; t.collected != n; t.collected++ {
		slot := t.out.Return(t.collected)
		if slot >= len(t.lent) || !t.lent[slot] {
			err := fmt.Errorf("%w: it gives back slot %d, which is not out", ErrBadFrame, slot)
			p.ep.spawn(func() { p.fail(err) })
			return false
		}
		t.lent[slot] = false
		t.freeSlots = append(t.freeSlots, slot)
		p.send.credit++
	}
	return p.send.credit > 0
}

func (t *shmTransport) finishSend(o *outgoing) {
	l := t.link
	l.pair.mu.Lock()
	t.sending = false
	l.pair.writing--
	l.pair.counters.sent[l.kind].add(len(o.header) + o.bytes)
	l.pair.counters.noteSent(o.posted, o.dequeued)
	l.pair.sent(o, nil)
	l.pair.reportLoss()
	closed := t.closed
	l.pair.mu.Unlock()
	if closed {
		t.letGo()
	}
}

// Readable is called by the progress engine when the peer has signalled: there are
// messages, or returns for a sender that starves.
func (t *shmTransport) Readable() {
	t.readAll()
	t.flush()
}

// endAfter delivers what has arrived. That is all: the peer wrote its messages before
// its goodbye.
func (t *shmTransport) endAfter(uint64, error) bool {
	t.readAll()
	return true
}

func (t *shmTransport) readAll() {
	t.readingMu.Lock()
	defer t.readingMu.Unlock()
	if t.deaf {
		return
	}
	if err := t.receive(); err != nil {
		t.deaf = true
		t.link.pair.ep.spawn(func() { t.link.pair.fail(err) })
	}
}

// receive delivers the messages that the peer has published. The caller holds
// readingMu.
func (t *shmTransport) receive() error {
	posted := t.in.Posted().Load()
	if posted-t.read > uint64(t.in.Slots) { // more than there are slots, or fewer than before
		return fmt.Errorf("%w: it has written %d messages, of which %d were read, to %d slots", ErrBadFrame, posted, t.read, t.in.Slots)
	}
	for ; t.read != posted; t.read++ {
		m, err := t.in.Read(t.read)
		if err != nil {
			return fmt.Errorf("message %d: %w", t.read+1, err)
		}
		if !t.link.window.claim(m.Slot) {
			return fmt.Errorf("message %d: %w: it is in slot %d, which holds another", t.read+1, ErrBadFrame, m.Slot)
		}
		t.link.deliver(arrival{wire.Frame{Header: m.Header, Lengths: m.Lengths, Body: m.Body}, m.Slot, m.Posted})
	}
	return nil
}

// releaseSlot returns a slot to the peer. The peer looks for returns when it has no
// slot left; its doorbell is rung only where it waits for one.
func (t *shmTransport) releaseSlot(slot int) {
	t.link.window.free(slot)
	t.givingMu.Lock()
	defer t.givingMu.Unlock()
	if t.gone {
		return
	}
	t.in.PutReturn(t.given, slot)
	t.given++
	if t.in.Starving().Load() != 0 && t.in.Starving().Swap(0) != 0 {
		t.peer.Signal()
	}
}

// close lets go of the peer's memory, as soon as no message is being written there.
func (t *shmTransport) close() {
	t.readingMu.Lock()
	t.deaf = true
	t.readingMu.Unlock()
	t.givingMu.Lock()
	t.gone = true
	t.givingMu.Unlock()
	t.link.pair.mu.Lock()
	t.closed = true
	sending := t.sending
	t.link.pair.mu.Unlock()
	if !sending {
		t.letGo()
	}
}
