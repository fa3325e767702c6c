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

// link is how one pair's messages travel, at one end: inprocLink in one process,
// wireLink between two.
type link interface {
	// transportKind is the index of the link's counters.
	transportKind() int
	// flush sends what pair.dequeue gives, on the caller's goroutine as far as that
	// does not block. It is called without pair.mu whenever there may be something to
	// send.
	flush()
	// check is called by the watchdog, without pair.mu, with the time since started.
	// It fails the pair where the peer is silent, and sends a keep-alive where one is
	// due.
	check(now time.Duration)
	// interval is how often check should be called.
	interval() time.Duration
	// end is called once, without pair.mu, when the pair is down. It says goodbye to
	// the peer where that is possible, and lets go of everything.
	end(cause error)
}

// outgoing is a message from its post until its Sent completion.
type outgoing struct {
	pair   *pair
	token  uint64
	header []byte
	body   []Span
	bytes  int // of the body
	ready  Event
	posted time.Time

	starvedSince time.Time   // when it began to wait for a credit; zero where it has not
	dequeued     time.Time   // when the link took it
	released     atomic.Bool // in process: the receiver has released it
}

// lengths are those of the spans.
func (o *outgoing) lengths() []int {
	n := make([]int, len(o.body))
	for i, s := range o.body {
		n[i] = s.Len
	}
	return n
}

// pair is this end's side of the traffic with one incarnation of a peer: the queue of
// messages to send, the window that the peer has given, and the link.
//
// Lock order: Endpoint.mu, then pair.mu (of two pairs in the order of their owners'
// ids), then receiveWindow.mu or completionQueue.mu. Those two are also taken under
// wireLink.orderMu, which is taken without the others.
type pair struct {
	ep          *Endpoint
	id          string // the peer's
	epoch       uint64 // the peer's
	counters    *counters
	ctx         context.Context // ends when the pair goes down
	cancel      context.CancelFunc
	outstanding atomic.Int64 // messages whose Sent has not been polled
	discarded   atomic.Bool  // the consumer is to receive nothing of this pair any more

	mu            sync.Mutex
	addr          string
	phase         phase
	cause         error  // why the phase is down
	why           string // which transport was chosen, and why
	send          sendWindow
	link          link
	queue         fifo[*outgoing]
	awaitingReady bool          // a goroutine waits for the event of the queue's first message
	writing       int           // writes under way that read spans of messages
	lossReported  bool          // Lost has been pushed
	unreported    int           // messages accepted by Post, Sent not yet pushed
	drained       chan struct{} // made where Close waits, closed when unreported is 0

	// How the pair connects, see dial.go:
	changed        broadcast          // sent when the phase changes or a dial attempt ends
	stopDial       context.CancelFunc // ends this end's attempts
	attempting     bool               // this end has a dial attempt under way
	waitingAccepts int                // connections that the peer has made, and that wait for the attempt's end
}

func newPair(e *Endpoint, id, addr string, epoch uint64, c *counters) *pair {
	p := &pair{ep: e, id: id, addr: addr, epoch: epoch, counters: c}
	p.ctx, p.cancel = context.WithCancel(e.ctx)
	return p
}

// post queues a message, sends what can be sent, and connects the pair if the message
// is its first.
func (p *pair) post(o *outgoing) error {
	l, err := p.enqueue(o)
	if l != nil {
		l.flush()
	}
	return err
}

// enqueue returns the link, nil before there is one.
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

// admit checks a message against the queue's limit, and against the receiver's limits
// where they are known. startSending checks messages that were queued before.
func (p *pair) admit(o *outgoing) error {
	if p.phase == down {
		return p.lostError()
	}
	if p.phase == up {
		if err := p.send.admits(o); err != nil {
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

func (p *pair) lostError() *LostError {
	return &LostError{Peer: p.id, Epoch: p.epoch, Cause: p.cause}
}

// dequeue takes the first queued message, where it is ready and there is a credit for
// it; else it returns nil. The caller holds mu.
func (p *pair) dequeue() *outgoing {
	if p.phase != up || p.queue.len() == 0 {
		return nil
	}
	o := p.queue.front()
	if !p.isReady(o) {
		return nil
	}
	if !p.send.spend() {
		p.noteStarving(o)
		return nil
	}
	p.queue.pop()
	o.dequeued = time.Now()
	p.counters.queueTime.add(o.dequeued.Sub(o.posted))
	if !o.starvedSince.IsZero() {
		p.counters.creditTime.add(o.dequeued.Sub(o.starvedSince))
	}
	return o
}

// noteStarving notes that a message waits for a credit.
func (p *pair) noteStarving(o *outgoing) {
	if o.starvedSince.IsZero() {
		o.starvedSince = time.Now()
		p.counters.creditWaits.Add(1)
	}
}

// endedContext is over: an event that is asked with it answers without waiting.
var endedContext = func() context.Context {
	ctx, cancel := context.WithCancel(context.Background())
	cancel()
	return ctx
}()

// isReady asks the event of a message. Where the event has not completed, one goroutine
// waits for it and flushes the link then.
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

// flush flushes the link, where the pair is up.
func (p *pair) flush() {
	if l := p.upLink(); l != nil {
		l.flush()
	}
}

// upLink returns the link, nil where the pair is not up.
func (p *pair) upLink() link {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.phase != up {
		return nil
	}
	return p.link
}

// refill takes n credits that the peer gives back.
func (p *pair) refill(n int) error {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.send.refill(n)
}

// sent pushes the Sent completion of a message: its spans are the poster's again. The
// caller holds mu.
func (p *pair) sent(o *outgoing, err error) {
	p.unreported--
	p.ep.completions.push(Completion{Kind: Sent, Peer: p.id, Token: o.token, Err: err, Posted: o.posted, Arrived: time.Now(), pair: p})
	if p.unreported == 0 && p.drained != nil {
		close(p.drained)
		p.drained = nil
	}
}

// markUp makes the phase up, with a link and the receiver's limits. The caller holds mu
// and has checked the phase; it calls startSending afterwards.
func (p *pair) markUp(l link, lim limits) {
	p.phase = up
	p.link = l
	p.send.open(lim)
	p.counters.connects.Add(1)
	p.changed.notify()
	if p.stopDial != nil {
		p.stopDial()
	}
}

// startSending checks the messages that were queued before the receiver's limits were
// known, and sends them.
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
		if err := p.send.admits(p.queue.at(i)); err != nil {
			return err
		}
	}
	return nil
}

// fail takes the pair down, and ends its link. Only the first call does anything.
func (p *pair) fail(cause error) {
	p.mu.Lock()
	if p.phase == down {
		p.mu.Unlock()
		return
	}
	used := p.phase != idle
	p.phase, p.cause = down, cause
	p.lossReported = !used // the consumer does not know of a pair that was never used
	l := p.link
	p.cancel()
	p.changed.notify()
	p.reportLoss()
	p.mu.Unlock()
	if l != nil {
		l.end(cause)
	}
}

// reportLoss completes the queued messages with an error and pushes Lost, once the pair
// is down and nobody reads spans of this end any more. It is called by fail, and by
// every writer when its write has ended. The caller holds mu.
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

// discard takes the pair down because this end wants it no more: messages that were
// received and not polled are dropped.
func (p *pair) discard(cause error) {
	p.discarded.Store(true)
	p.fail(cause)
}

// setAddr changes where a pair will dial that has not begun to.
func (p *pair) setAddr(addr string, epoch uint64) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if epoch == p.epoch && p.phase == idle {
		p.addr = addr
	}
}

// drain waits until every accepted message has its Sent completion.
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
		s.Credit, s.Transport = p.send.credit, transportNames[p.link.transportKind()]
	}
	return s
}

// broadcast wakes all goroutines that wait for a change. Its owner's lock guards it.
type broadcast struct{ ch chan struct{} }

// next returns a channel that the next notify closes.
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
