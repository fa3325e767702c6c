package m2n

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"sync/atomic"
	"time"
)

// tcpLink carries one pair over one connection. One goroutine reads. Whoever has
// something to send writes, one at a time: the poster itself as far as the
// kernel takes it without blocking, else the link's second goroutine.
type tcpLink struct {
	pair   *pair
	conn   net.Conn
	direct *directWriter // nil where the system has none
	in     *frameReader
	clock  *listener
	slots  *slots
	idle   time.Duration // after so long without a frame, send one
	kick   chan struct{}

	// Both are times, since began. stuck is when the present piece was given to
	// the kernel, 0 while none is; spoke is when the last write ended.
	stuck, spoke atomic.Int64

	// Guarded by pair.mu:
	busy    bool   // somebody writes
	handed  bool   // and left the rest to the link's goroutine
	back    int    // credits to give back
	ping    bool   // a sign of life is due
	seq     uint64 // of the last frame sent
	orderly bool   // a goodbye can follow the last frame

	out  batch  // what is being written; the writer's own
	seen uint64 // sequence number of the last frame received; the reader's own
}

// Limits of what one write gathers.
const (
	batchBytes    = 64 << 10
	batchMessages = 16
)

// leastIdle bounds how often a peer may want to hear something.
const leastIdle = 2 * time.Millisecond

func newTCPLink(p *pair, s *stream, theirs greeting) (*tcpLink, error) {
	memory, err := newSlots(p.ep)
	if err != nil {
		return nil, err
	}
	cfg := p.ep.cfg
	l := &tcpLink{
		pair: p, conn: s.conn, direct: newDirectWriter(s.conn), in: &s.in, clock: s.clock, slots: memory,
		idle: max(min(cfg.PeerTimeout, theirs.PeerTimeout)/4, leastIdle), kick: make(chan struct{}, 1),
		busy: true, // until run: the handshake writes
	}
	l.in.lim = bounds{header: cfg.HeaderBytes, spans: maxSpans, body: cfg.SlotBytes}
	l.clock.heard.Store(int64(now()))
	l.spoke.Store(int64(now()))
	return l, nil
}

// run starts the link once the handshake is over; err is of its last write.
func (l *tcpLink) run(err error) {
	e := l.pair.ep
	e.watch()
	e.spawn(l.read)
	e.spawn(l.write)
	if err != nil {
		l.pair.fail(fmt.Errorf("handshake: %w", err))
	}
	l.pair.mu.Lock()
	l.busy = false
	l.orderly = err == nil
	l.pair.mu.Unlock()
	l.pair.begin()
	l.signal()
}

func (l *tcpLink) transport() int { return tcp }

func (l *tcpLink) wake() { l.signal() }

func (l *tcpLink) signal() {
	select {
	case l.kick <- struct{}{}:
	default:
	}
}

// flush writes on the caller's goroutine what the kernel takes at once.
func (l *tcpLink) flush() {
	if l.direct == nil {
		l.signal()
		return
	}
	if !l.begin() {
		return
	}
	switch done, err := l.writeDirectly(); {
	case done || err != nil:
		l.finish(err)
	default:
		l.handOver()
	}
}

func (l *tcpLink) begin() bool {
	l.pair.mu.Lock()
	defer l.pair.mu.Unlock()
	return l.gather()
}

// gather takes what can be sent into out. The caller holds pair.mu, and writes
// where the answer is yes.
func (l *tcpLink) gather() bool {
	if l.busy || l.pair.phase != up {
		return false
	}
	l.out.reset()
	l.gatherMessages()
	if len(l.out.frames) == 0 {
		if l.back == 0 && !l.ping {
			return false
		}
		l.out.frames = append(l.out.frames, frame{kind: frameNote})
	}
	l.number()
	l.busy = true
	l.pair.writing = len(l.out.messages) > 0
	return true
}

func (l *tcpLink) gatherMessages() {
	for bytes := 0; bytes < batchBytes && len(l.out.messages) < batchMessages; {
		o := l.pair.next()
		if o == nil {
			return
		}
		bytes += o.bytes
		l.out.messages = append(l.out.messages, o)
		l.out.frames = append(l.out.frames, frame{
			kind: frameData, flags: flagBodySum, body: o.bytes, lengths: o.lengths(), header: o.header,
		})
	}
}

// number gives the gathered frames what is the connection's: their numbers, and
// the first one the credits, which so go before all data.
func (l *tcpLink) number() {
	l.out.frames[0].grant = uint32(l.back)
	l.back, l.ping = 0, false
	for i := range l.out.frames {
		l.seq++
		l.out.frames[i].seq = l.seq
		l.out.frames[i].epoch = l.pair.ep.cfg.Epoch
	}
	l.out.encode()
}

// writeDirectly writes without blocking; done is false where the kernel takes no
// more.
func (l *tcpLink) writeDirectly() (done bool, err error) {
	for {
		pieces := l.out.next()
		if len(pieces) == 0 {
			return true, nil
		}
		l.stuck.Store(int64(now()))
		n, err := l.direct.write(pieces)
		l.out.advance(n)
		if n == 0 || err != nil {
			return false, err
		}
	}
}

// handOver leaves the rest of the batch to the link's goroutine.
func (l *tcpLink) handOver() {
	l.pair.mu.Lock()
	l.handed = true
	l.pair.mu.Unlock()
	l.signal()
}

// writeAll writes the batch, blocking. The watchdog closes the connection where
// that takes too long.
func (l *tcpLink) writeAll() error {
	for {
		pieces := l.out.next()
		if len(pieces) == 0 {
			return nil
		}
		l.stuck.Store(int64(now()))
		buffers := net.Buffers(pieces)
		if _, err := buffers.WriteTo(l.conn); err != nil {
			return err
		}
		l.out.pending = nil
	}
}

// finish reports the batch and lets the next one begin.
func (l *tcpLink) finish(err error) {
	p := l.pair
	l.stuck.Store(0)
	l.spoke.Store(int64(now()))
	if err != nil {
		p.fail(fmt.Errorf("writing: %w", err))
	}
	p.mu.Lock()
	l.orderly = l.orderly && err == nil
	l.report(err)
	p.writing, l.busy = false, false
	p.report()
	more := p.phase == down || l.ping || l.urgent() || p.queue.len() > 0 && p.credit > 0
	p.mu.Unlock()
	if more {
		l.signal()
	}
}

// report completes the batch's messages. The caller holds pair.mu.
func (l *tcpLink) report(err error) {
	if err != nil {
		err = l.pair.lostError()
	}
	for _, o := range l.out.messages {
		if err == nil {
			l.pair.counters.sent[tcp].add(len(o.header) + o.bytes)
			l.pair.counters.wireTime.add(time.Since(o.taken))
		}
		l.pair.sent(o, err)
	}
}

// write is the goroutine that writes what nobody else can, and says goodbye.
func (l *tcpLink) write() {
	for {
		switch l.turn() {
		case toWait:
			<-l.kick
		case toWrite:
			l.finish(l.writeAll())
		case toLeave:
			l.sayGoodbye()
			return
		}
	}
}

type turn uint8

const (
	toWait turn = iota
	toWrite
	toLeave
)

func (l *tcpLink) turn() turn {
	l.pair.mu.Lock()
	defer l.pair.mu.Unlock()
	switch {
	case l.handed:
		l.handed = false
		return toWrite
	case l.busy:
		return toWait
	case l.pair.phase == down:
		return toLeave
	case l.gather():
		return toWrite
	}
	return toWait
}

// end is called once the pair is down. A connection between two frames gets the
// time to say why; one inside of a frame, or broken, is cut.
func (l *tcpLink) end(error) {
	l.pair.mu.Lock()
	cut := l.pair.writing || !l.orderly
	l.pair.mu.Unlock()
	if cut {
		l.conn.Close()
	} else {
		l.conn.SetDeadline(time.Now().Add(l.pair.ep.cfg.PeerTimeout / 4)) //nolint:errcheck // it fails where the connection has
	}
	l.signal()
}

// sayGoodbye is the last thing that is written.
func (l *tcpLink) sayGoodbye() {
	p := l.pair
	p.mu.Lock()
	text, err := json.Marshal(farewellOf(p.cause))
	say := err == nil && l.orderly
	l.seq++
	p.mu.Unlock()
	if !say {
		return
	}
	b := appendFrame(nil, &frame{kind: frameGoodbye, epoch: p.ep.cfg.Epoch, seq: l.seq, header: text})
	if _, err := l.conn.Write(b); err != nil {
		return // the peer is gone, and will find out by itself
	}
	if half, ok := l.conn.(interface{ CloseWrite() error }); ok {
		_ = half.CloseWrite() // fails where the connection has
	}
}

// read is the goroutine that reads. It closes the connection once the peer has,
// or had the time to: closing with unread bytes would take from the peer what it
// has not read yet.
func (l *tcpLink) read() {
	l.pair.fail(l.receive())
	_, _ = io.Copy(io.Discard, l.in.r) // ends with the connection or end's deadline
	l.conn.Close()
	l.slots.unref()
}

// receive handles frames until the connection ends, and returns why.
func (l *tcpLink) receive() error {
	for {
		f, err := l.in.next()
		switch {
		case errors.Is(err, io.EOF):
			return errors.New("the peer closed the connection without a goodbye")
		case err != nil:
			return fmt.Errorf("reading: %w", err)
		}
		if err := l.handle(&f); err != nil {
			return fmt.Errorf("frame %d: %w", f.seq, err)
		}
	}
}

func (l *tcpLink) handle(f *frame) error {
	p := l.pair
	l.seen++
	switch {
	case f.seq != l.seen:
		return fmt.Errorf("%w: its number should be %d", ErrBadFrame, l.seen)
	case f.epoch < p.epoch:
		p.counters.droppedOld.Add(1)
		return l.in.skipBody(f)
	case f.epoch > p.epoch:
		return fmt.Errorf("%w: it is of epoch %d, the peer of %d", ErrBadFrame, f.epoch, p.epoch)
	}
	if err := l.granted(int(f.grant)); err != nil {
		return err
	}
	switch f.kind {
	case frameData:
		return l.message(f)
	case frameNote:
		return nil
	case frameGoodbye:
		return readFarewell(f.header)
	}
	return fmt.Errorf("%w: type %d outside of a handshake", ErrBadFrame, f.kind)
}

func readFarewell(b []byte) error {
	var f farewell
	if err := json.Unmarshal(b, &f); err != nil {
		return fmt.Errorf("%w: goodbye: %w", ErrBadFrame, err)
	}
	return f.told()
}

// granted takes credits that the peer gives back.
func (l *tcpLink) granted(n int) error {
	if n == 0 {
		return nil
	}
	p := l.pair
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.credit+n > p.limits.slots {
		return fmt.Errorf("%w: it gives back %d credits, %d of %d are out", ErrBadFrame, n, p.limits.slots-p.credit, p.limits.slots)
	}
	p.grant(n)
	return nil
}

// message reads a body into a slot and reports it.
func (l *tcpLink) message(f *frame) error {
	began := time.Now()
	slot, ok := l.slots.take()
	if !ok {
		return fmt.Errorf("%w: a message without a credit: %d are received and not released", ErrBadFrame, l.pair.ep.cfg.Slots)
	}
	if err := l.in.readBody(f, l.slots.bytes(slot, f.body)); err != nil {
		l.slots.put(slot)
		return err
	}
	l.pair.counters.received[tcp].add(len(f.header) + f.body)
	taken := l.pair.ep.done.push(Completion{
		Kind: Received, Peer: l.pair.id, Header: f.header, Body: l.slots.spans(slot, f.lengths),
		Posted: began, Arrived: time.Now(), pair: l.pair, held: &slotReceipt{link: l, slot: slot},
	})
	if !taken {
		l.slots.put(slot)
	}
	l.giveBackIfUrgent(0)
	return nil
}

// giveBack takes a slot from the receiver. The credit travels with the next
// frame, or at once where the peer may be short of credits.
func (l *tcpLink) giveBack(slot int) {
	l.slots.put(slot)
	l.giveBackIfUrgent(1)
}

func (l *tcpLink) giveBackIfUrgent(more int) {
	l.pair.mu.Lock()
	l.back += more
	urgent := l.urgent()
	l.pair.mu.Unlock()
	if urgent {
		l.flush()
	}
}

// urgent reports whether the peer has, for all that this end knows, at most half
// of its credits left. The caller holds pair.mu.
func (l *tcpLink) urgent() bool {
	left := l.pair.ep.cfg.Slots - l.slots.taken() - l.back
	return l.back > 0 && 2*left <= l.pair.ep.cfg.Slots
}

// check is the watchdog's look at the link.
func (l *tcpLink) check(now time.Duration) {
	limit := l.pair.ep.cfg.PeerTimeout
	if silence := now - time.Duration(l.clock.heard.Load()); silence > limit {
		l.pair.fail(fmt.Errorf("%w: nothing heard for %v, the limit is %v", ErrSilent, silence.Round(time.Millisecond), limit))
		return
	}
	if since := time.Duration(l.stuck.Load()); since != 0 && now-since > limit {
		l.pair.fail(fmt.Errorf("%w: a write is stuck for %v, the limit is %v", ErrSilent, (now - since).Round(time.Millisecond), limit))
		return
	}
	if now-time.Duration(l.spoke.Load()) > l.idle {
		l.remind()
	}
}

func (l *tcpLink) interval() time.Duration { return l.idle / 2 }

// remind asks for a sign of life.
func (l *tcpLink) remind() {
	l.pair.mu.Lock()
	l.ping = true
	l.pair.mu.Unlock()
	l.signal()
}
