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

// wireLink is the link of a pair between two processes: lanes, which are connections,
// and where messages do not travel on lanes a transport beside them.
//
// The first lane is the lane of credits: it carries credits, keep-alives and the
// goodbye. Messages travel on the other lanes, each on the first that is idle, so that
// a credit never waits behind a body. Where there is only one lane and no transport, it
// carries messages too.
type wireLink struct {
	pair      *pair
	kind      int // index of counters
	window    *receiveWindow
	lanes     []*lane
	transport transport    // nil where the lanes carry the messages
	openLanes atomic.Int32 // lanes whose connection is not closed

	lastNumber uint64 // of the last message sent; guarded by pair.mu

	// orderMu guards what follows. Nothing is written while it is held, since a write
	// that fails takes it.
	orderMu     sync.Mutex
	reorder     reorderBuffer
	goodbyes    int   // lanes on which a goodbye has come
	peerCause   error // what the last one said
	brokenLanes int   // lanes that have ended without a goodbye
	laneErr     error // how the first of them ended
}

// newWireLink makes the link of connections whose handshake is over. The window is the
// link's from here on, also where an error is returned.
func newWireLink(p *pair, kind int, window *receiveWindow, conns []*handshakeConn, theirs greeting) (*wireLink, error) {
	l := &wireLink{pair: p, kind: kind, window: window}
	// With one lane for messages, none can overtake another.
	l.reorder.window = 1
	if len(conns) > 2 {
		l.reorder.window = uint64(p.ep.cfg.Slots)
	}
	// A peer is to hear four frames in the shorter of the two timeouts.
	keepAliveAfter := max(min(p.ep.cfg.PeerTimeout, theirs.PeerTimeout)/4, leastKeepAlive)
	for _, c := range conns {
		if !p.ep.tasks.add() {
			l.abandon()
			return nil, ErrClosed
		}
		l.openLanes.Add(1)
		l.lanes = append(l.lanes, newLane(l, c.conn, !c.secure, keepAliveAfter))
	}
	return l, nil
}

func (l *wireLink) transportKind() int { return l.kind }

// control is the lane of credits.
func (l *wireLink) control() *lane { return l.lanes[0] }

// carriesMessages reports whether messages travel on a lane.
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

// abandon releases a link whose pair never came up with it. The connections are still
// the caller's.
func (l *wireLink) abandon() {
	for range l.lanes {
		l.laneClosed()
	}
	if len(l.lanes) == 0 {
		l.window.release()
	}
}

// laneClosed is called when a lane's connection is closed. With the last one the link
// lets go of everything.
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

// flush writes, on the caller's goroutine, what the kernel takes at once.
func (l *wireLink) flush() {
	if l.transport != nil {
		l.transport.flush()
	}
	for _, n := range l.lanes {
		n.flush()
	}
}

// nextNumber numbers the messages that are sent. The caller holds pair.mu.
func (l *wireLink) nextNumber() uint64 {
	l.lastNumber++
	return l.lastNumber
}

// acceptCredits takes the credits of a frame.
func (l *wireLink) acceptCredits(n int) error {
	if n == 0 {
		return nil
	}
	if l.kind == viaSHM {
		return fmt.Errorf("%w: it gives back %d credits by a frame, where they go through memory", ErrBadFrame, n)
	}
	if err := l.pair.refill(n); err != nil {
		return err
	}
	l.flush()
	return nil
}

// claimSlot finds a slot for the message that begins with f on lane n.
func (l *wireLink) claimSlot(n *lane, f *wire.Frame) ([]byte, error) {
	if !l.carriesMessages(n) {
		return nil, fmt.Errorf("%w: a message on the lane of credits", ErrBadFrame)
	}
	slot, ok := l.window.claimAny()
	if !ok {
		return nil, fmt.Errorf("%w: a message without a credit: %d are received and not released", ErrBadFrame, l.pair.ep.cfg.Slots)
	}
	n.holdsSlot, n.slot, n.bodyBegan = true, slot, time.Now()
	return l.window.bytes(slot, f.Body), nil
}

// messageComplete delivers a message that has come whole on lane n, when those before
// it are here.
func (l *wireLink) messageComplete(n *lane, f *wire.Frame) error {
	if err := l.deliverInOrder(arrival{*f, n.slot, n.bodyBegan}); err != nil {
		return fmt.Errorf("frame %d: %w", f.Seq, err)
	}
	n.holdsSlot = false // the message's slot is the consumer's, or waits in reorder
	l.sendDueGrant()
	return nil
}

func (l *wireLink) deliverInOrder(a arrival) error {
	l.orderMu.Lock()
	defer l.orderMu.Unlock()
	return l.reorder.accept(a, l.deliver)
}

// deliver gives a message to the consumer. A closed endpoint has none.
func (l *wireLink) deliver(a arrival) {
	l.pair.counters.received[l.kind].add(len(a.f.Header) + a.f.Body)
	accepted := l.pair.ep.completions.push(Completion{
		Kind: Received, Peer: l.pair.id, Header: a.f.Header, Body: l.window.spans(a.slot, a.f.Lengths),
		Posted: a.began, Arrived: time.Now(), pair: l.pair, held: &slotReceipt{link: l, slot: a.slot},
	})
	if !accepted {
		l.window.free(a.slot)
	}
}

// releaseSlot takes a slot back from the consumer. The credit travels with the next
// frame, or at once where the peer may be short of credits.
func (l *wireLink) releaseSlot(slot int) {
	if l.transport != nil {
		l.transport.releaseSlot(slot)
		return
	}
	l.window.free(slot)
	l.owe()
}

// owe gives the peer a credit back.
func (l *wireLink) owe() {
	l.window.owe()
	l.sendDueGrant()
}

func (l *wireLink) sendDueGrant() {
	if l.window.grantDue() {
		l.control().flush()
	}
}

// goodbyeReceived is called with the goodbye of a lane. The pair fails with the last
// lane's: what the peer sent before it on other lanes is still to come. messages is how
// many the peer has sent in all.
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

// laneEnded is called at the end of a lane's stream.
func (l *wireLink) laneEnded(n *lane, err error) {
	switch {
	case n.goodbyeReceived:
		return
	case errors.Is(err, io.EOF) && n.in.AtBoundary():
		err = fmt.Errorf("%w: the peer closed it without a goodbye", ErrBroken)
	default:
		err = broken(fmt.Errorf("reading: %w", wire.UnexpectedEOF(err)))
	}
	if l.noteBrokenLane(err) {
		l.pair.fail(l.bestCause(err))
	}
}

// broken wraps what has broken a connection in ErrBroken, unless the peer has broken
// the protocol.
func broken(err error) error {
	if errors.Is(err, ErrBadFrame) {
		return err
	}
	return fmt.Errorf("%w: %w", ErrBroken, err)
}

// noteBrokenLane notes that a lane has ended without a goodbye, and reports whether
// that takes the pair down now. Else a goodbye may come on another lane a moment later,
// and says more; without one the watchdog takes the pair down.
func (l *wireLink) noteBrokenLane(err error) bool {
	l.orderMu.Lock()
	defer l.orderMu.Unlock()
	l.brokenLanes++
	if l.laneErr == nil {
		l.laneErr = err
	}
	return l.peerCause != nil || l.brokenLanes+l.goodbyes >= len(l.lanes)
}

// brokenLane returns how a lane has ended without a goodbye, nil where none has.
func (l *wireLink) brokenLane() error {
	l.orderMu.Lock()
	defer l.orderMu.Unlock()
	return l.laneErr
}

// bestCause returns the peer's reason, where it has said goodbye, rather than the error
// that came of the peer's end.
func (l *wireLink) bestCause(err error) error {
	l.orderMu.Lock()
	defer l.orderMu.Unlock()
	if l.peerCause != nil {
		return l.peerCause
	}
	return err
}

// check is called by the watchdog.
func (l *wireLink) check(now time.Duration) {
	if err := l.brokenLane(); err != nil {
		l.pair.fail(l.bestCause(err))
		return
	}
	for _, n := range l.lanes {
		if err := n.checkAlive(now); err != nil {
			l.pair.fail(err)
			return
		}
	}
	for _, n := range l.lanes { // after the checks: a lane that writes cannot say goodbye
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
