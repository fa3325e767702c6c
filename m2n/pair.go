package m2n

import (
	"context"
	"fmt"
	"sync"
	"sync/atomic"
	"time"
)

// phase is where a pair is in its life. It only moves forward:
//
//	idle ──first post──▶ connecting ──▶ up ──▶ down
//	  └───────peer dials───────────────▲
type phase uint8

const (
	idle phase = iota
	connecting
	up
	down
)

var phaseNames = [...]string{idle: "idle", connecting: "connecting", up: "up", down: "lost"}

// link is a transport's share of one pair, at one end.
type link interface {
	// transport tells the counters' index.
	transportKind() int
	// flush sends what pair.next gives, on the caller's goroutine as far as that
	// does not block. It is called without the lock whenever there may be something.
	flush()
	// check is called every now and then, without the lock, with the time since
	// began: the peer may be silent, or want to hear something.
	check(now time.Duration)
	// interval is how often that should be.
	interval() time.Duration
	// end tells that the pair is down, once and without the lock: say goodbye to
	// the peer where that is possible, and let go of everything.
	end(cause error)
}

// limits are what the receiving end of a pair takes.
type limits struct {
	slots, slotBytes, headerBytes int
}

// outgoing is a message on its way.
type outgoing struct {
	pair   *pair
	token  uint64
	header []byte
	body   []Span
	bytes  int // of the body
	ready  Event
	posted time.Time

	starvedSince time.Time // since when for a credit; zero where it need not
	dequeued     time.Time // when the transport took it
	released     atomic.Bool
}

// lengths are those of the spans.
func (o *outgoing) lengths() []int {
	n := make([]int, len(o.body))
	for i, s := range o.body {
		n[i] = s.Len
	}
	return n
}

// pair is this end of the connection with one incarnation of a peer: the queue
// of what is to be sent, the credit that the peer gave, and the link.
//
// Lock order: Endpoint.mu, pair.mu (of two pairs in the order of their owners'
// ids), then slots.mu or completions.mu; those two also under wireLink.order, which
// is taken without the others.
type pair struct {
	ep          *Endpoint
	id          string // the peer's
	epoch       uint64 // the peer's
	counters    *counters
	ctx         context.Context // ends when the pair goes down
	cancel      context.CancelFunc
	outstanding atomic.Int64 // messages whose Sent has not been polled
	discarded   atomic.Bool  // nothing of this pair is to be received any more

	mu             sync.Mutex
	addr           string
	phase          phase
	cause          error  // of being down
	why            string // which transport was chosen, and why
	limits         limits
	credit         int
	link           link
	queue          fifo[*outgoing]
	awaitingReady  bool          // a goroutine waits for the first message's event
	writing        int           // writes under way that read spans of messages
	lossReported   bool          // Lost has been reported
	unreported     int           // messages accepted, Sent not yet pushed
	drained        chan struct{} // closed when pending is 0, where Close waits for it
	changed        broadcast     // rung when the phase changes or a try to connect ends
	stopDial       context.CancelFunc
	attempting     bool // this end has a connection under way
	waitingAccepts int  // connections of the peer's that wait for that
}

func newPair(e *Endpoint, id, addr string, epoch uint64, c *counters) *pair {
	p := &pair{ep: e, id: id, addr: addr, epoch: epoch, counters: c}
	p.ctx, p.cancel = context.WithCancel(e.ctx)
	return p
}

// post queues a message and, if it is the pair's first, connects.
func (p *pair) post(o *outgoing) error {
	l, err := p.enqueue(o)
	if l != nil {
		l.flush()
	}
	return err
}

// enqueue returns the link, once there is one.
func (p *pair) enqueue(o *outgoing) (link, error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if err := p.admit(o); err != nil {
		return nil, err
	}
	p.unreported++
	p.queue.push(o)
	if p.phase == idle {
		p.phase = connecting
		p.ep.spawn(p.dial)
	}
	return p.link, nil
}

// admit checks what can be checked now. The receiver's limits are known once the
// pair is up; what was queued before is checked then.
func (p *pair) admit(o *outgoing) error {
	if p.phase == down {
		return p.lostError()
	}
	if p.phase == up {
		if err := p.limits.admits(o); err != nil {
			return fmt.Errorf("post to peer %q: %w", p.id, err)
		}
	}
	if n := p.outstanding.Add(1); n > int64(p.ep.cfg.Queue) {
		p.outstanding.Add(-1)
		return fmt.Errorf("post to peer %q: %w: %d messages wait for their completion, the limit is %d",
			p.id, ErrQueueFull, n-1, p.ep.cfg.Queue)
	}
	return nil
}

func (l limits) admits(o *outgoing) error {
	if o.bytes > l.slotBytes {
		return fmt.Errorf("%w: the body has %d bytes, the peer's slot %d", ErrTooLarge, o.bytes, l.slotBytes)
	}
	if len(o.header) > l.headerBytes {
		return fmt.Errorf("%w: the header has %d bytes, the peer takes %d", ErrTooLarge, len(o.header), l.headerBytes)
	}
	return nil
}

func (p *pair) lostError() *LostError {
	return &LostError{Peer: p.id, Epoch: p.epoch, Cause: p.cause}
}

// next takes the first queued message, where it is ready and has a credit; nil
// where there is none. The caller holds mu.
func (p *pair) dequeue() *outgoing {
	if p.phase != up || p.queue.len() == 0 {
		return nil
	}
	o := p.queue.front()
	if !p.isReady(o) {
		return nil
	}
	if p.credit == 0 {
		p.noteWait(o)
		return nil
	}
	p.credit--
	p.queue.pop()
	o.dequeued = time.Now()
	p.counters.queueTime.add(o.dequeued.Sub(o.posted))
	if !o.starvedSince.IsZero() {
		p.counters.creditTime.add(o.dequeued.Sub(o.starvedSince))
	}
	return o
}

func (p *pair) noteWait(o *outgoing) {
	if o.starvedSince.IsZero() {
		o.starvedSince = time.Now()
		p.counters.creditWaits.Add(1)
	}
}

// ended is a context that is over: an event asked with it does not wait.
var endedContext = func() context.Context {
	ctx, cancel := context.WithCancel(context.Background())
	cancel()
	return ctx
}()

// isReady asks the message's event; where it has not completed a goroutine waits
// for it and wakes the link, so that nobody else does.
func (p *pair) isReady(o *outgoing) bool {
	if o.ready == nil {
		return true
	}
	if p.awaitingReady {
		return false
	}
	if o.ready.Wait(endedContext) == nil {
		o.ready = nil
		return true
	}
	p.awaitingReady = true
	p.ep.spawn(func() { p.awaitReady(o) })
	return false
}

func (p *pair) awaitReady(o *outgoing) {
	ctx, cancel := context.WithTimeout(p.ctx, p.ep.cfg.ReadyTimeout)
	defer cancel()
	if err := o.ready.Wait(ctx); err != nil {
		p.fail(fmt.Errorf("waiting for the event of message %d: %w", o.token, err))
		return
	}
	p.mu.Lock()
	o.ready = nil
	p.awaitingReady = false
	p.mu.Unlock()
	p.flush()
}

// flush lets the link send, once there is one.
func (p *pair) flush() {
	if l := p.upLink(); l != nil {
		l.flush()
	}
}

// grant adds n to the credit, which the peer gives back.
func (p *pair) grant(n int) error {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.credit+n > p.limits.slots {
		return fmt.Errorf("%w: it gives back %d credits, %d of %d are out", ErrBadFrame, n, p.limits.slots-p.credit, p.limits.slots)
	}
	p.credit += n
	return nil
}

// sent reports a message's spans as free. The caller holds mu.
func (p *pair) sent(o *outgoing, err error) {
	p.unreported--
	p.ep.completions.push(Completion{Kind: Sent, Peer: p.id, Token: o.token, Err: err, Posted: o.posted, Arrived: time.Now(), pair: p})
	if p.unreported == 0 && p.drained != nil {
		close(p.drained)
		p.drained = nil
	}
}

// raise makes the pair up. The caller holds mu and has checked the phase.
func (p *pair) markUp(l link, lim limits) {
	p.phase = up
	p.link = l
	p.limits = lim
	p.credit = lim.slots
	p.counters.connects.Add(1)
	p.changed.notify()
	if p.stopDial != nil {
		p.stopDial()
	}
}

// begin checks what was queued before the pair was up, and sends it.
func (p *pair) startSending() {
	if err := p.checkQueued(); err != nil {
		p.fail(err)
	}
	p.flush()
}

func (p *pair) checkQueued() error {
	p.mu.Lock()
	defer p.mu.Unlock()
	for i := range p.queue.len() {
		if err := p.limits.admits(p.queue.at(i)); err != nil {
			return err
		}
	}
	return nil
}

// fail takes the pair down, once.
func (p *pair) fail(cause error) {
	p.mu.Lock()
	if p.phase == down {
		p.mu.Unlock()
		return
	}
	used := p.phase != idle
	p.phase, p.cause = down, cause
	p.lossReported = !used // of a pair that never was there is nothing to tell
	l := p.link
	p.cancel()
	p.changed.notify()
	p.reportLoss()
	p.mu.Unlock()
	if l != nil {
		l.end(cause)
	}
}

// report tells the endpoint of the loss as soon as no span of this end is being
// read: by the one who fails the pair, or by the link when its write has ended.
// The caller holds mu.
func (p *pair) reportLoss() {
	if p.phase != down || p.writing > 0 || p.lossReported {
		return
	}
	p.lossReported = true
	err := p.lostError()
	for o, ok := p.queue.pop(); ok; o, ok = p.queue.pop() {
		p.sent(o, err)
	}
	p.counters.losses.Add(1)
	p.ep.completions.push(Completion{Kind: Lost, Peer: p.id, Err: err, Arrived: time.Now(), pair: p})
}

// drain waits until every accepted message has been reported.
func (p *pair) drain(ctx context.Context) error {
	p.mu.Lock()
	if p.unreported == 0 {
		p.mu.Unlock()
		return nil
	}
	if p.drained == nil {
		p.drained = make(chan struct{})
	}
	done := p.drained
	p.mu.Unlock()
	select {
	case <-done:
		return nil
	case <-ctx.Done():
		p.mu.Lock()
		defer p.mu.Unlock()
		return fmt.Errorf("peer %q: %d messages are not out: %w", p.id, p.unreported, ctx.Err())
	}
}

func (p *pair) stats() PeerStats {
	s := p.counters.snapshot()
	p.mu.Lock()
	defer p.mu.Unlock()
	s.Endpoint, s.Peer, s.Epoch, s.State, s.Why = p.ep.cfg.ID, p.id, p.epoch, phaseNames[p.phase], p.why
	s.Queued = p.queue.len()
	if p.phase == up {
		s.Credit, s.Transport = p.credit, transportNames[p.link.transportKind()]
	}
	return s
}

// bell wakes all who wait for a change. Its owner's lock guards it.
type broadcast struct{ ch chan struct{} }

// next is closed at the next ring.
func (b *broadcast) next() <-chan struct{} {
	if b.ch == nil {
		b.ch = make(chan struct{})
	}
	return b.ch
}

func (b *broadcast) notify() {
	if b.ch != nil {
		close(b.ch)
		b.ch = nil
	}
}
