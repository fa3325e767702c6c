package m2n

import (
	"errors"
	"fmt"
	"io"
	"sync"
	"sync/atomic"
	"time"

	"github.com/tandem-moe/tandem/m2n/internal/wire"
)

// wireLink carries one pair between processes. Its first lane carries credits,
// signs of life and the goodbye, and messages where it is the only one; they
// travel on the others, each on the first that has room. So a credit never waits
// behind a body.
type wireLink struct {
	pair  *pair
	kind  int // index of counters
	slots *slots
	lanes []*lane
	carry carrier      // nil where the lanes carry the messages
	alive atomic.Int32 // lanes that have not left

	// Guarded by pair.mu:
	back   int    // credits to give back
	posted uint64 // number of the last message that was sent

	// order guards what follows. Nothing is written while it is held: a write that
	// fails takes it.
	order    sync.Mutex
	inOrder  sequence
	partings int   // lanes on which a goodbye came
	parting  error // what it said
	losses   int   // lanes that ended without one
	loss     error // the first of them
}

// newWireLink makes the link of connections whose handshake is over. memory is the
// link's from here on.
func newWireLink(p *pair, kind int, memory *slots, streams []*stream, theirs greeting) (*wireLink, error) {
	l := &wireLink{pair: p, kind: kind, slots: memory}
	// On one connection, beside the lane of credits, nothing can overtake.
	l.inOrder.ahead = 1
	if len(streams) > 2 {
		l.inOrder.ahead = uint64(p.ep.cfg.Slots)
	}
	idle := max(min(p.ep.cfg.PeerTimeout, theirs.PeerTimeout)/4, leastIdle)
	for _, s := range streams {
		if !p.ep.running.enter() {
			l.abandon()
			return nil, ErrClosed
		}
		l.alive.Add(1)
		l.lanes = append(l.lanes, newLane(l, s.conn, !s.secure, idle))
	}
	return l, nil
}

func (l *wireLink) transport() int { return l.kind }

// control is the lane of credits.
func (l *wireLink) control() *lane { return l.lanes[0] }

// carries tells whether messages travel on a lane.
func (l *wireLink) carries(n *lane) bool {
	return l.carry == nil && (n != l.control() || len(l.lanes) == 1)
}

// start opens the lanes. The pair is up.
func (l *wireLink) start() {
	l.pair.ep.watch()
	for _, n := range l.lanes {
		if err := n.open(); err != nil {
			l.pair.fail(err)
		}
	}
	l.pair.begin()
}

// abandon is for a link that was never used.
func (l *wireLink) abandon() {
	for range l.lanes {
		l.gone()
	}
	if len(l.lanes) == 0 {
		l.slots.unref()
	}
}

// gone is called as each lane leaves.
func (l *wireLink) gone() {
	if l.alive.Add(-1) == 0 {
		if l.carry != nil {
			l.carry.close()
		}
		l.order.Lock()
		l.inOrder.drop(l.slots)
		l.order.Unlock()
		l.slots.unref()
	}
	l.pair.ep.running.exit()
}

// flush writes on the caller's goroutine what the kernel takes at once.
func (l *wireLink) flush() {
	if l.carry != nil {
		l.carry.flush()
	}
	for _, n := range l.lanes {
		n.flush()
	}
}

// nextNumber numbers messages. The caller holds pair.mu.
func (l *wireLink) nextNumber() uint64 {
	l.posted++
	return l.posted
}

// granted takes credits that the peer gives back.
func (l *wireLink) granted(n int) error {
	if n == 0 {
		return nil
	}
	if l.kind == shm { // a credit without its slot
		return fmt.Errorf("%w: it gives back %d credits by a frame, where they go through memory", ErrBadFrame, n)
	}
	if err := l.pair.grant(n); err != nil {
		return err
	}
	l.flush()
	return nil
}

// place finds the memory for a message's body.
func (l *wireLink) place(n *lane, f *wire.Frame) ([]byte, error) {
	if !l.carries(n) {
		return nil, fmt.Errorf("%w: a message on the lane of credits", ErrBadFrame)
	}
	slot, ok := l.slots.take()
	if !ok {
		return nil, fmt.Errorf("%w: a message without a credit: %d are received and not released", ErrBadFrame, l.pair.ep.cfg.Slots)
	}
	n.slot, n.began = slot, time.Now()
	return l.slots.bytes(slot, f.Body), nil
}

// arrived delivers a message, and those that waited for it.
func (l *wireLink) arrived(n *lane, f *wire.Frame) error {
	if err := l.takeInTurn(arrival{*f, n.slot, n.began}); err != nil {
		return fmt.Errorf("frame %d: %w", f.Seq, err)
	}
	l.giveBackIfUrgent(0)
	return nil
}

func (l *wireLink) takeInTurn(a arrival) error {
	l.order.Lock()
	defer l.order.Unlock()
	return l.inOrder.take(a, l.deliver)
}

func (l *wireLink) deliver(a arrival) {
	l.pair.counters.received[l.kind].add(len(a.f.Header) + a.f.Body)
	taken := l.pair.ep.done.push(Completion{
		Kind: Received, Peer: l.pair.id, Header: a.f.Header, Body: l.slots.spans(a.slot, a.f.Lengths),
		Posted: a.began, Arrived: time.Now(), pair: l.pair, held: &slotReceipt{link: l, slot: a.slot},
	})
	if !taken {
		l.slots.put(a.slot)
	}
}

// giveBack takes a slot from the receiver. The credit travels with the next
// frame, or at once where the peer may be short of credits.
func (l *wireLink) giveBack(slot int) {
	if l.carry != nil {
		l.carry.giveBack(slot)
		return
	}
	l.slots.put(slot)
	l.giveBackIfUrgent(1)
}

func (l *wireLink) giveBackIfUrgent(more int) {
	l.pair.mu.Lock()
	l.back += more
	urgent := l.urgent()
	l.pair.mu.Unlock()
	if urgent {
		l.control().flush()
	}
}

// urgent reports whether the peer has, for all that this end knows, less than half
// of its credits left. The caller holds pair.mu.
func (l *wireLink) urgent() bool {
	left := l.pair.ep.cfg.Slots - l.slots.taken() - l.back
	return l.back > 0 && 2*left < l.pair.ep.cfg.Slots
}

// told takes a goodbye. What was sent before it on other lanes is still to come.
func (l *wireLink) told(messages uint64, cause error) {
	l.order.Lock()
	l.partings++
	l.parting = cause
	last := l.losses+l.partings >= len(l.lanes)
	l.order.Unlock()
	if last {
		if l.carry != nil && !l.carry.settle(messages, cause) {
			return
		}
		l.pair.fail(cause)
	}
}

// ended takes the end of a lane's stream.
func (l *wireLink) ended(n *lane, err error) {
	switch {
	case n.parted:
		return
	case errors.Is(err, io.EOF) && n.in.AtBoundary():
		err = fmt.Errorf("%w: the peer closed it without a goodbye", ErrBroken)
	default:
		err = broken(fmt.Errorf("reading: %w", wire.UnexpectedEOF(err)))
	}
	if l.lose(err) {
		l.pair.fail(l.blame(err))
	}
}

// broken is what has broken a connection, under that name where it has no other.
func broken(err error) error {
	if errors.Is(err, ErrBadFrame) {
		return err
	}
	return fmt.Errorf("%w: %w", ErrBroken, err)
}

// lose notes that a lane has ended without a goodbye, and tells whether that takes
// the pair down now: on another lane a goodbye may be a moment away.
func (l *wireLink) lose(err error) bool {
	l.order.Lock()
	defer l.order.Unlock()
	l.losses++
	if l.loss == nil {
		l.loss = err
	}
	return l.parting != nil || l.losses+l.partings >= len(l.lanes)
}

// lost is why a lane has ended, while others have not.
func (l *wireLink) lost() error {
	l.order.Lock()
	defer l.order.Unlock()
	return l.loss
}

// blame returns what the peer has said on parting, where it has, rather than what
// came of that.
func (l *wireLink) blame(err error) error {
	l.order.Lock()
	defer l.order.Unlock()
	if l.parting != nil {
		return l.parting
	}
	return err
}

// check is the watchdog's look at the link.
func (l *wireLink) check(now time.Duration) {
	if err := l.lost(); err != nil {
		l.pair.fail(l.blame(err))
		return
	}
	for _, n := range l.lanes {
		if err := n.check(now); err != nil {
			l.pair.fail(err)
			return
		}
	}
	for _, n := range l.lanes { // not before: a lane that writes cannot say goodbye
		n.remind(now)
	}
}

func (l *wireLink) interval() time.Duration { return l.control().idle / 2 }

// end is called once the pair is down.
func (l *wireLink) end(error) {
	for _, n := range l.lanes {
		n.end()
	}
}
