package m2n

import (
	"fmt"
	"sync"

	"github.com/tandem-moe/tandem/m2n/internal/wire"
)

// shmCarrier carries a pair's messages through two rings, one of each end.
type shmTransport struct {
	link *wireLink
	in   *ring // this end's: what the peer sends
	out  *ring // the peer's
	peer caller
	let  func() // lets go of the memory

	// Guarded by pair.mu:
	busy     bool // somebody writes a message
	closing  bool
	free     []int  // slots of the peer's that can be written
	mine     []bool // by slot: it was written, and has not come back
	posted   uint64 // messages written
	returned uint64 // returns read

	reading sync.Mutex
	seen    uint64 // messages read
	deaf    bool   // the pair is down

	giving sync.Mutex
	given  uint64 // returns written
	gone   bool   // the peer's memory is not to be touched
}

// caller is how a peer is told that its ring has something.
type caller struct {
	board board
	ring  int    // the peer's number of this pair
	wake  func() // ends the peer's sleep
}

func (c caller) call() {
	c.board.set(c.ring)
	if c.board.wakes() {
		c.wake()
	}
}

func newSHMTransport(l *wireLink, in, out *ring, peer caller, let func()) *shmTransport {
	c := &shmTransport{link: l, in: in, out: out, peer: peer, let: let, mine: make([]bool, out.layout.slots)}
	for i := range out.layout.slots {
		c.free = append(c.free, out.layout.slots-1-i)
	}
	return c
}

// flush copies what can be sent into the peer's slots, on the poster's goroutine.
func (c *shmTransport) flush() {
	for {
		o, slot := c.gather()
		if o == nil {
			return
		}
		c.out.write(c.posted, slot, o)
		c.posted++
		c.peer.call()
		c.finish(o)
	}
}

// gather takes a message and a slot for it; from then on its caller writes.
func (c *shmTransport) gather() (*outgoing, int) {
	p := c.link.pair
	p.mu.Lock()
	defer p.mu.Unlock()
	if c.busy || p.phase != up {
		return nil, 0
	}
	if p.queue.len() > 0 && p.credit == 0 && !c.collect() {
		c.out.starving().Store(1)
		c.collect() // what was given back meanwhile
	}
	o := p.dequeue()
	if o == nil {
		return nil, 0
	}
	slot := c.free[len(c.free)-1]
	c.free = c.free[:len(c.free)-1]
	c.mine[slot] = true
	c.busy = true
	p.writing++
	return o, slot
}

// collect takes the slots that the peer has given back, if there are any. The
// caller holds pair.mu. A return that cannot be is the peer's mistake, and fails
// the pair.
func (c *shmTransport) collect() bool {
	n := c.out.returned().Load()
	for ; c.returned != n; c.returned++ {
		slot := c.out.returnedSlot(c.returned)
		if slot >= len(c.mine) || !c.mine[slot] {
			err := fmt.Errorf("%w: it gives back slot %d, which is not out", ErrBadFrame, slot)
			c.link.pair.ep.spawn(func() { c.link.pair.fail(err) })
			return false
		}
		c.mine[slot] = false
		c.free = append(c.free, slot)
		c.link.pair.credit++
	}
	return c.link.pair.credit > 0
}

func (c *shmTransport) finish(o *outgoing) {
	l := c.link
	l.pair.mu.Lock()
	c.busy = false
	l.pair.writing--
	l.pair.counters.sent[l.kind].add(len(o.header) + o.bytes)
	l.pair.counters.noteSent(o.posted, o.dequeued)
	l.pair.sent(o, nil)
	l.pair.reportLoss()
	closing := c.closing
	l.pair.mu.Unlock()
	if closing {
		c.let()
	}
}

// ready is called by the driver when the peer has called.
func (c *shmTransport) ready() {
	c.read()
	c.flush()
}

// settle delivers what has arrived, which is all: it was written before.
func (c *shmTransport) endAfter(uint64, error) bool {
	c.read()
	return true
}

func (c *shmTransport) read() {
	c.reading.Lock()
	defer c.reading.Unlock()
	if c.deaf {
		return
	}
	if err := c.receive(); err != nil {
		c.deaf = true
		c.link.pair.ep.spawn(func() { c.link.pair.fail(err) })
	}
}

func (c *shmTransport) receive() error {
	posted := c.in.posted().Load()
	if slots := c.in.layout.slots; posted-c.seen > uint64(slots) { // or it went back
		return fmt.Errorf("%w: it has written %d messages, of which %d were read, to %d slots", ErrBadFrame, posted, c.seen, slots)
	}
	for ; c.seen != posted; c.seen++ {
		d, lengths, header, err := c.in.read(c.seen)
		if err != nil {
			return fmt.Errorf("message %d: %w", c.seen+1, err)
		}
		if !c.link.window.claim(d.slot) {
			return fmt.Errorf("message %d: %w: it is in slot %d, which holds another", c.seen+1, ErrBadFrame, d.slot)
		}
		c.link.deliver(arrival{wire.Frame{Header: header, Lengths: lengths, Body: d.body}, d.slot, postedAt(d.posted)})
	}
	return nil
}

// giveBack puts the slot among the returns. The peer looks there when it has no
// slot left; it is called where it waits for one.
func (c *shmTransport) releaseSlot(slot int) {
	c.link.window.free(slot)
	c.giving.Lock()
	defer c.giving.Unlock()
	if c.gone {
		return
	}
	c.in.putReturn(c.given, slot)
	c.given++
	if c.in.starving().Load() != 0 && c.in.starving().Swap(0) != 0 {
		c.peer.call()
	}
}

// close lets go of the memory: of this end's at once, of the peer's once nothing is
// being written there.
func (c *shmTransport) close() {
	c.reading.Lock()
	c.deaf = true
	c.reading.Unlock()
	c.giving.Lock()
	c.gone = true
	c.giving.Unlock()
	c.link.pair.mu.Lock()
	c.closing = true
	busy := c.busy
	c.link.pair.mu.Unlock()
	if !busy {
		c.let()
	}
}
