package m2n

import (
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"sync/atomic"
	"time"

	"github.com/tandem-moe/tandem/m2n/internal/wire"
)

// lane is one connection of a wireLink. Whoever has something to send writes, one
// at a time: the poster itself as far as the kernel takes it without blocking;
// then the conduit goes on.
type lane struct {
	link           *wireLink
	netConn        net.Conn   // of the handshake
	conn           connection // made by open, under pair.mu
	in             *wire.Assembler
	keepAliveAfter time.Duration // after so long without a frame, send one
	checksums      bool          // bodies are checksummed

	// Times, since began. stuck is when the present piece was given to the kernel,
	// 0 while none is; spoke is when the last write ended; heard is when something
	// was last read.
	writingSince, lastSent, lastReceived atomic.Int64

	// Guarded by pair.mu:
	busy         bool   // somebody writes, or it is over
	cut          bool   // inside a frame, when the pair went down
	keepAliveDue bool   // a sign of life is due
	seq          uint64 // of the last frame sent
	orderly      bool   // a goodbye can follow the last frame

	// The writer's own: what is being written.
	out          wire.Batch
	messages     []*outgoing  // whose frames are in out
	frames       []wire.Frame // in out, one for each message, or a keep-alive
	silentBefore bool         // it was silent for too long when the watchdog last looked; its own
	stall        stallDetector

	retransmits uint64 // TCP segments, as far as they were counted; the watchdog's own

	// The reader's own:
	lastSeq         uint64 // sequence number of the last frame received
	goodbyeReceived bool   // a goodbye was received
	slot            int    // that the body of the present frame goes to
	bodyBegan       time.Time
}

// Limits of what one write gathers.
const (
	batchBytes    = 64 << 10
	batchMessages = 16
)

// leastIdle bounds how often a peer may want to hear something.
const leastKeepAlive = 2 * time.Millisecond

func newLane(l *wireLink, conn net.Conn, sums bool, idle time.Duration) *lane {
	n := &lane{link: l, netConn: conn, checksums: sums, keepAliveAfter: idle, busy: true} // until open: the handshake writes
	cfg := l.pair.ep.cfg
	n.in = wire.NewAssembler(wire.Bounds{Header: cfg.HeaderBytes, Spans: wire.MaxSpans, Body: cfg.SlotBytes}, n)
	n.stall.start(now(), n.in.Position())
	n.lastReceived.Store(int64(now()))
	n.lastSent.Store(int64(now()))
	return n
}

// open lets the lane be used, once the handshake is over and the pair is up.
func (n *lane) open() error {
	n.lastReceived.Store(int64(now()))
	err := n.tune(n.netConn)
	c := n.newConnection(n.netConn)
	err = errors.Join(err, c.start())
	p := n.link.pair
	p.mu.Lock()
	n.conn, n.orderly = c, true
	n.busy = p.phase == down
	over := n.busy
	p.mu.Unlock()
	if over {
		n.leave()
	}
	return err
}

// flush writes what there is to write, unless somebody else is at it.
func (n *lane) flush() {
	for n.gather() {
		if !n.conn.nonBlocking() {
			n.resumeLater()
			return
		}
		if !n.writeBatch() {
			return
		}
	}
}

// gather takes what can be sent into out; the caller writes where the answer is
// yes.
func (n *lane) gather() bool {
	l := n.link
	l.pair.mu.Lock()
	defer l.pair.mu.Unlock()
	if n.busy || l.pair.phase != up {
		return false
	}
	n.out.Reset()
	clear(n.messages) // so that they can be collected
	n.messages, n.frames = n.messages[:0], n.frames[:0]
	if l.carriesMessages(n) {
		n.gatherMessages()
	}
	if len(n.frames) == 0 {
		if !n.keepAliveDue && !(n == l.control() && l.grantUrgent()) {
			return false
		}
		n.frames = append(n.frames, wire.Frame{Kind: wire.KeepAlive})
	}
	n.numberFrames()
	n.busy = true
	if len(n.messages) > 0 {
		l.pair.writing++
	}
	return true
}

func (n *lane) gatherMessages() {
	flags := uint16(0)
	if n.checksums {
		flags = wire.FlagBodySum
	}
	for bytes := 0; bytes < batchBytes && len(n.messages) < batchMessages; {
		o := n.link.pair.dequeue()
		if o == nil {
			return
		}
		bytes += o.bytes
		n.messages = append(n.messages, o)
		n.frames = append(n.frames, wire.Frame{
			Kind: wire.Data, Flags: flags, Body: o.bytes, Lengths: o.lengths(), Header: o.header, Number: n.link.nextNumber(),
		})
	}
}

// number gives the gathered frames what is the connection's: their numbers, and
// the first one the credits, which so go before all data; but not where they
// would queue behind what was sent before.
func (n *lane) numberFrames() {
	if l := n.link; l.owed > 0 && (n == l.control() || n.conn.unsent() == 0) {
		n.frames[0].Credits = uint32(l.owed)
		l.owed = 0
	}
	n.keepAliveDue = false
	for i := range n.frames {
		n.seq++
		n.frames[i].Seq = n.seq
		n.frames[i].Epoch = n.link.pair.ep.cfg.Epoch
		n.encode(i)
	}
}

// encode adds the i-th frame to the stream, with the body of its message.
func (n *lane) encode(i int) {
	n.out.AddFrame(&n.frames[i])
	if i < len(n.messages) {
		for _, s := range n.messages[i].body {
			n.out.AddBody(s.Bytes())
		}
	}
}

// carryOn writes until the batch is out, or the kernel has no room: then it is
// false, and goes on elsewhere.
func (n *lane) writeBatch() bool {
	for {
		pieces := n.out.Next()
		if len(pieces) == 0 {
			n.finishBatch(nil)
			return true
		}
		if n.writingSince.Load() == 0 {
			n.writingSince.Store(int64(now()))
		}
		written, err := n.conn.write(pieces)
		n.out.Advance(written)
		if written > 0 {
			n.writingSince.Store(int64(now()))
		}
		switch {
		case err != nil:
			n.finishBatch(err)
			return true
		case written == 0:
			n.resumeLater()
			return false
		}
	}
}

// leaveRest leaves the batch to the conduit.
func (n *lane) resumeLater() {
	if err := n.conn.resumeLater(); err != nil {
		n.finishBatch(err)
	}
}

// resume goes on with a batch that was left.
func (n *lane) resume() {
	if n.writeBatch() {
		n.flush()
	}
}

// finish reports the batch and lets the next one begin.
func (n *lane) finishBatch(err error) {
	p := n.link.pair
	n.writingSince.Store(0)
	n.lastSent.Store(int64(now()))
	if err != nil {
		p.fail(n.link.bestCause(broken(fmt.Errorf("writing: %w", err))))
	}
	p.mu.Lock()
	n.orderly = n.orderly && err == nil
	n.reportBatch(err)
	if len(n.messages) > 0 {
		p.writing--
	}
	p.reportLoss()
	n.busy = p.phase == down
	leaving := n.busy
	p.mu.Unlock()
	if leaving {
		n.leave()
	}
}

// report completes the batch's messages. The caller holds pair.mu.
func (n *lane) reportBatch(err error) {
	l := n.link
	if err != nil {
		err = l.pair.lostError()
	}
	for _, o := range n.messages {
		if err == nil {
			l.pair.counters.sent[l.kind].add(len(o.header) + o.bytes)
			l.pair.counters.noteSent(o.posted, o.dequeued)
		}
		l.pair.sent(o, err)
	}
}

// end is called once the pair is down. A connection between two frames gets the
// time to say why; one inside of a frame, or broken, is cut.
func (n *lane) end() {
	p := n.link.pair
	p.mu.Lock()
	opened, writing := n.conn != nil, n.busy
	if opened {
		n.busy, n.cut = true, n.cut || writing
	}
	p.mu.Unlock()
	switch {
	case !opened: // open will see it
	case writing:
		n.conn.shutdown() // the writer notices, and leaves
	default:
		n.leave()
	}
}

// leave takes the lane out of use. Its caller is the writer.
func (n *lane) leave() {
	p := n.link.pair
	p.mu.Lock()
	goodbye := n.encodeGoodbye()
	p.mu.Unlock()
	go func() { // the endpoint counts it since the lane was made
		defer n.link.laneClosed()
		n.conn.closeGracefully(goodbye, time.Now().Add(p.ep.cfg.PeerTimeout/4))
	}()
}

// goodbye is the last frame, nil where none can be sent. The caller holds pair.mu.
func (n *lane) encodeGoodbye() []byte {
	if n.cut || !n.orderly {
		return nil
	}
	p := n.link.pair
	text, err := json.Marshal(goodbyeOf(p.cause))
	if err != nil {
		return nil // the peer sees the end of the connection
	}
	n.seq++
	return wire.AppendFrame(nil, &wire.Frame{Kind: wire.Goodbye, Epoch: p.ep.cfg.Epoch, Seq: n.seq, Number: n.link.lastNumber, Header: text})
}

// received takes bytes that were put into the assembler's space, or the error of
// reading; false where reading is over.
func (n *lane) bytesRead(bytes int, err error) bool {
	if bytes > 0 {
		n.lastReceived.Store(int64(now()))
		if err := n.in.Advance(bytes); err != nil {
			n.link.pair.fail(err)
			return false
		}
		n.stall.record(bytes, n.in.Position())
	}
	if err != nil {
		n.link.laneEnded(n, err)
	}
	return err == nil
}

// place is called with each frame that comes, and returns memory for its body.
func (n *lane) BodyMemory(f *wire.Frame) ([]byte, error) {
	b, err := n.checkFrame(f)
	if err != nil {
		return nil, fmt.Errorf("frame %d: %w", f.Seq, err)
	}
	return b, nil
}

func (n *lane) checkFrame(f *wire.Frame) ([]byte, error) {
	p := n.link.pair
	n.lastSeq++
	switch {
	case n.goodbyeReceived:
		return nil, fmt.Errorf("%w: type %d after a goodbye", ErrBadFrame, f.Kind)
	case f.Seq != n.lastSeq:
		return nil, fmt.Errorf("%w: its number should be %d", ErrBadFrame, n.lastSeq)
	case f.Epoch < p.epoch:
		p.counters.droppedOld.Add(1)
		return make([]byte, f.Body), nil
	case f.Epoch > p.epoch:
		return nil, fmt.Errorf("%w: it is of epoch %d, the peer of %d", ErrBadFrame, f.Epoch, p.epoch)
	}
	if err := n.link.acceptCredits(int(f.Credits)); err != nil {
		return nil, err
	}
	switch f.Kind {
	case wire.Data:
		return n.link.claimSlot(n, f)
	case wire.KeepAlive, wire.Goodbye:
		return nil, nil
	}
	return nil, fmt.Errorf("%w: type %d outside of a handshake", ErrBadFrame, f.Kind)
}

// take is called with each frame that is whole.
func (n *lane) FrameComplete(f *wire.Frame) error {
	switch {
	case f.Epoch < n.link.pair.epoch:
		return nil
	case f.Kind == wire.Data:
		return n.link.messageComplete(n, f)
	case f.Kind == wire.Goodbye:
		cause, err := parseGoodbye(f.Header)
		if err != nil {
			return fmt.Errorf("frame %d: %w", f.Seq, err)
		}
		n.goodbyeReceived = true
		n.link.goodbyeReceived(f.Number, cause)
	}
	return nil
}

func parseGoodbye(b []byte) (cause, err error) {
	var f goodbye
	if err := json.Unmarshal(b, &f); err != nil {
		return nil, fmt.Errorf("%w: goodbye: %w", ErrBadFrame, err)
	}
	return f.cause(), nil
}

// check is the watchdog's look at the lane.
func (n *lane) checkAlive(now time.Duration) error {
	limit := n.link.pair.ep.cfg.PeerTimeout
	if now-time.Duration(n.lastReceived.Load()) > n.keepAliveAfter {
		n.readPending() // it may be there, and too little to wake who reads
	}
	silence := now - time.Duration(n.lastReceived.Load())
	if silence > limit && n.silentBefore {
		return fmt.Errorf("%w: nothing heard for %v, the limit is %v%s", ErrSilent, silence.Round(time.Millisecond), limit, n.stall.missing())
	}
	n.silentBefore = silence > limit // the reader may be late: it gets one more interval
	if err := n.stall.check(now, limit, n.leastProgress(limit)); err != nil {
		return err
	}
	if since := time.Duration(n.writingSince.Load()); since != 0 && now-since > limit {
		return fmt.Errorf("%w: a write is stuck for %v, the limit is %v", ErrSilent, (now - since).Round(time.Millisecond), limit)
	}
	n.countRetransmits()
	return nil
}

// catchUp is the conduit's, once there is one.
func (n *lane) readPending() {
	n.link.pair.mu.Lock()
	c := n.conn
	n.link.pair.mu.Unlock()
	if c != nil {
		c.readPending()
	}
}

// leastAdvance is how many bytes of a frame have to come within a time: four times
// what signs of life bring, a kilobyte in PeerTimeout where both ends have the same.
func (n *lane) leastProgress(within time.Duration) int {
	return 4 * wire.FixedBytes * max(1, int(within/n.keepAliveAfter))
}

// remind sends a sign of life, where one is due.
func (n *lane) keepAliveIfDue(now time.Duration) {
	if now-time.Duration(n.lastSent.Load()) <= n.keepAliveAfter {
		return
	}
	n.link.pair.mu.Lock()
	n.keepAliveDue = true
	n.link.pair.mu.Unlock()
	n.flush()
}

// countRetransmits adds what the kernel has sent again since the last check.
func (n *lane) countRetransmits() {
	n.link.pair.mu.Lock()
	c := n.conn
	n.link.pair.mu.Unlock()
	if c == nil {
		return
	}
	if total, ok := c.retransmits(); ok {
		n.link.pair.counters.retransmits.Add(total - n.retransmits)
		n.retransmits = total
	}
}
