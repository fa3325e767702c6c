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
	pair      *pair
	kind      int // index of counters
	window    *receiveWindow
	lanes     []*lane
	transport transport    // nil where the lanes carry the messages
	openLanes atomic.Int32 // lanes that have not left

	// Guarded by pair.mu:
	owed       int    // credits to give back
	lastNumber uint64 // number of the last message that was sent

	// order guards what follows. Nothing is written while it is held: a write that
	// fails takes it.
	orderMu     sync.Mutex
	reorder     reorderBuffer
	goodbyes    int   // lanes on which a goodbye came
	peerCause   error // what it said
	brokenLanes int   // lanes that ended without one
	laneErr     error // the first of them
}

// newWireLink makes the link of connections whose handshake is over. memory is the
// link's from here on.
func newWireLink(p *pair, kind int, memory *receiveWindow, streams []*handshakeConn, theirs greeting) (*wireLink, error) {
	l := &wireLink{pair: p, kind: kind, window: memory}
	// On one connection, beside the lane of credits, nothing can overtake.
	l.reorder.window = 1
	if len(streams) > 2 {
		l.reorder.window = uint64(p.ep.cfg.Slots)
	}
	idle := max(min(p.ep.cfg.PeerTimeout, theirs.PeerTimeout)/4, leastKeepAlive)
	for _, s := range streams {
		if !p.ep.tasks.add() {
			l.abandon()
			return nil, ErrClosed
		}
		l.openLanes.Add(1)
		l.lanes = append(l.lanes, newLane(l, s.conn, !s.secure, idle))
	}
	return l, nil
}

func (l *wireLink) transportKind() int { return l.kind }

// control is the lane of credits.
func (l *wireLink) control() *lane { return l.lanes[0] }

// carries tells whether messages travel on a lane.
func (l *wireLink) carriesMessages(n *lane) bool {
	return l.transport == nil && (n != l.control() || len(l.lanes) == 1)
}

// start opens the lanes. The pair is up.
func (l *wireLink) start() {
	l.pair.ep.wakeWatchdog()
	for _, n := range l.lanes {
		if err := n.open(); err != nil {
			l.pair.fail(err)
		}
	}
	l.pair.startSending()
}

// abandon is for a link that was never used.
func (l *wireLink) abandon() {
	for range l.lanes {
		l.laneClosed()
	}
	if len(l.lanes) == 0 {
		l.window.release()
	}
}

// gone is called as each lane leaves.
func (l *wireLink) laneClosed() {
	if l.openLanes.Add(-1) == 0 {
		if l.transport != nil {
			l.transport.close()
		}
		l.orderMu.Lock()
		l.reorder.discard(l.window)
		l.orderMu.Unlock()
		l.window.release()
	}
	l.pair.ep.tasks.done()
}

// flush writes on the caller's goroutine what the kernel takes at once.
func (l *wireLink) flush() {
	if l.transport != nil {
		l.transport.flush()
	}
	for _, n := range l.lanes {
		n.flush()
	}
}

// nextNumber numbers messages. The caller holds pair.mu.
func (l *wireLink) nextNumber() uint64 {
	l.lastNumber++
	return l.lastNumber
}

// granted takes credits that the peer gives back.
func (l *wireLink) acceptCredits(n int) error {
	if n == 0 {
		return nil
	}
	if l.kind == viaSHM { // a credit without its slot
		return fmt.Errorf("%w: it gives back %d credits by a frame, where they go through memory", ErrBadFrame, n)
	}
	if err := l.pair.grant(n); err != nil {
		return err
	}
	l.flush()
	return nil
}

// place finds the memory for a message's body.
func (l *wireLink) claimSlot(n *lane, f *wire.Frame) ([]byte, error) {
	if !l.carriesMessages(n) {
		return nil, fmt.Errorf("%w: a message on the lane of credits", ErrBadFrame)
	}
	slot, ok := l.window.claimAny()
	if !ok {
		return nil, fmt.Errorf("%w: a message without a credit: %d are received and not released", ErrBadFrame, l.pair.ep.cfg.Slots)
	}
	n.slot, n.bodyBegan = slot, time.Now()
	return l.window.bytes(slot, f.Body), nil
}

// arrived delivers a message, and those that waited for it.
func (l *wireLink) messageComplete(n *lane, f *wire.Frame) error {
	if err := l.deliverInOrder(arrival{*f, n.slot, n.bodyBegan}); err != nil {
		return fmt.Errorf("frame %d: %w", f.Seq, err)
	}
	l.grantIfUrgent(0)
	return nil
}

func (l *wireLink) deliverInOrder(a arrival) error {
	l.orderMu.Lock()
	defer l.orderMu.Unlock()
	return l.reorder.accept(a, l.deliver)
}

func (l *wireLink) deliver(a arrival) {
	l.pair.counters.received[l.kind].add(len(a.f.Header) + a.f.Body)
	taken := l.pair.ep.completions.push(Completion{
		Kind: Received, Peer: l.pair.id, Header: a.f.Header, Body: l.window.spans(a.slot, a.f.Lengths),
		Posted: a.began, Arrived: time.Now(), pair: l.pair, held: &slotReceipt{link: l, slot: a.slot},
	})
	if !taken {
		l.window.free(a.slot)
	}
}

// giveBack takes a slot from the receiver. The credit travels with the next
// frame, or at once where the peer may be short of credits.
func (l *wireLink) releaseSlot(slot int) {
	if l.transport != nil {
		l.transport.releaseSlot(slot)
		return
	}
	l.window.free(slot)
	l.grantIfUrgent(1)
}

func (l *wireLink) grantIfUrgent(more int) {
	l.pair.mu.Lock()
	l.owed += more
	urgent := l.grantUrgent()
	l.pair.mu.Unlock()
	if urgent {
		l.control().flush()
	}
}

// urgent reports whether the peer has, for all that this end knows, less than half
// of its credits left. The caller holds pair.mu.
func (l *wireLink) grantUrgent() bool {
	left := l.pair.ep.cfg.Slots - l.window.inUse() - l.owed
	return l.owed > 0 && 2*left < l.pair.ep.cfg.Slots
}

// told takes a goodbye. What was sent before it on other lanes is still to come.
func (l *wireLink) goodbyeReceived(messages uint64, cause error) {
	l.orderMu.Lock()
	l.goodbyes++
	l.peerCause = cause
	last := l.brokenLanes+l.goodbyes >= len(l.lanes)
	l.orderMu.Unlock()
	if last {
		if l.transport != nil && !l.transport.endAfter(messages, cause) {
			return
		}
		l.pair.fail(cause)
	}
}

// ended takes the end of a lane's stream.
func (l *wireLink) laneEnded(n *lane, err error) {
	switch {
	case n.goodbyeReceived:
		return
	case errors.Is(err, io.EOF) && n.in.AtBoundary():
		err = fmt.Errorf("%w: the peer closed it without a goodbye", ErrBroken)
	default:
		err = broken(fmt.Errorf("reading: %w", wire.UnexpectedEOF(err)))
	}
	if l.noteLaneEnd(err) {
		l.pair.fail(l.bestCause(err))
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
func (l *wireLink) noteLaneEnd(err error) bool {
	l.orderMu.Lock()
	defer l.orderMu.Unlock()
	l.brokenLanes++
	if l.laneErr == nil {
		l.laneErr = err
	}
	return l.peerCause != nil || l.brokenLanes+l.goodbyes >= len(l.lanes)
}

// lost is why a lane has ended, while others have not.
func (l *wireLink) laneError() error {
	l.orderMu.Lock()
	defer l.orderMu.Unlock()
	return l.laneErr
}

// blame returns what the peer has said on parting, where it has, rather than what
// came of that.
func (l *wireLink) bestCause(err error) error {
	l.orderMu.Lock()
	defer l.orderMu.Unlock()
	if l.peerCause != nil {
		return l.peerCause
	}
	return err
}

// check is the watchdog's look at the link.
func (l *wireLink) check(now time.Duration) {
	if err := l.laneError(); err != nil {
		l.pair.fail(l.bestCause(err))
		return
	}
	for _, n := range l.lanes {
		if err := n.checkAlive(now); err != nil {
			l.pair.fail(err)
			return
		}
	}
	for _, n := range l.lanes { // not before: a lane that writes cannot say goodbye
		n.keepAliveIfDue(now)
	}
}

func (l *wireLink) interval() time.Duration { return l.control().keepAliveAfter / 2 }

// end is called once the pair is down.
func (l *wireLink) end(error) {
	for _, n := range l.lanes {
		n.end()
	}
}
