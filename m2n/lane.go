package m2n

import (
	"encoding/json"
	"fmt"
	"net"
	"sync/atomic"
	"time"

	"github.com/tandem-moe/tandem/m2n/internal/wire"
)

// lane is one connection of a wireLink: it makes frames of messages and credits, and
// messages and credits of frames. Its life is in [laneState].
//
// One goroutine at a time writes: the one that posts or releases, as far as the kernel
// takes bytes without blocking; then the connection has another one go on, by resume.
type lane struct {
	link           *wireLink
	netConn        net.Conn // of the handshake; conn takes it over
	checksums      bool     // bodies carry checksums
	keepAliveAfter time.Duration

	// Times since started. writingSince is when the kernel last took bytes of the
	// present batch, or the writer began to offer them; 0 while nobody writes.
	writingSince, lastSent, lastReceived atomic.Int64

	// Guarded by pair.mu:
	state        laneState
	conn         connection // nil until open
	keepAliveDue bool
	seq          uint64 // of the last frame sent

	// The writer's own: what is being written.
	out      wire.Batch
	messages []*outgoing  // whose frames are in out
	frames   []wire.Frame // in out: one for each message, or one keep-alive

	// The reader's own:
	in              *wire.Assembler
	lastSeq         uint64 // of the last frame received
	goodbyeReceived bool
	holdsSlot       bool      // slot is claimed for a message that is not delivered yet
	slot            int       // that the body of the present frame goes to
	bodyBegan       time.Time // when the head of the present frame had come

	// The watchdog's own:
	stall        stallDetector // which the reader feeds
	silentBefore bool          // at the last check the peer had been silent for too long
	retransmits  uint64        // of TCP segments, as far as they were counted
}

// Limits of what one batch gathers.
const (
	batchBytes    = 64 << 10
	batchMessages = 16
)

// discardBytes bounds the memory into which a body is read that nobody wants.
const discardBytes = 4 << 10

// leastKeepAlive bounds how often a peer can ask for keep-alives.
const leastKeepAlive = 2 * time.Millisecond

func newLane(l *wireLink, conn net.Conn, checksums bool, keepAliveAfter time.Duration) *lane {
	n := &lane{link: l, netConn: conn, checksums: checksums, keepAliveAfter: keepAliveAfter}
	cfg := l.pair.ep.cfg
	n.in = wire.NewAssembler(wire.Bounds{Header: cfg.HeaderBytes, Spans: wire.MaxSpans, Body: cfg.SlotBytes}, n)
	n.stall.start(now(), n.in.Position())
	n.lastReceived.Store(int64(now()))
	n.lastSent.Store(int64(now()))
	return n
}

// open takes over the connection of the handshake, which is over, and begins to read.
// An error fails the pair.
func (n *lane) open() error {
	n.lastReceived.Store(int64(now()))
	err := n.tune(n.netConn)
	conn := n.newConnection(n.netConn)
	if startErr := conn.start(); err == nil {
		err = startErr
	}
	p := n.link.pair
	p.mu.Lock()
	n.conn = conn
	do, goodbye := n.move(laneOpened)
	p.mu.Unlock()
	n.act(do, goodbye)
	return err
}

// move moves the lane's state. The caller holds pair.mu, and passes what move returns
// to act once it has released that.
func (n *lane) move(e laneEvent) (do laneAction, goodbye []byte) {
	n.state, do = n.state.after(e)
	if do == closeBye {
		goodbye = n.encodeGoodbye()
	}
	return do, goodbye
}

// act does what a move asks for.
func (n *lane) act(do laneAction, goodbye []byte) {
	switch do {
	case shutDownSocket:
		n.conn.shutdown()
	case closeBye, closeCut:
		n.close(goodbye)
	}
}

// end is called once the pair is down.
func (n *lane) end() {
	n.link.pair.mu.Lock()
	do, goodbye := n.move(lanePairDown)
	n.link.pair.mu.Unlock()
	n.act(do, goodbye)
}

// close closes the connection, after a goodbye that may be nil. The peer gets a part
// of PeerTimeout to read the goodbye.
func (n *lane) close(goodbye []byte) {
	go func() { // the endpoint's tasks count it since the lane was made
		defer n.link.laneClosed()
		n.conn.closeGracefully(goodbye, time.Now().Add(n.link.pair.ep.cfg.PeerTimeout/4))
		n.freeSlot() // closeGracefully has ended the reader
	}()
}

// freeSlot gives back the slot of a message that has not come whole.
func (n *lane) freeSlot() {
	if n.holdsSlot {
		n.holdsSlot = false
		n.link.window.free(n.slot)
	}
}

// encodeGoodbye returns the lane's last frame: why the pair ends, and after how many
// messages. The caller holds pair.mu.
func (n *lane) encodeGoodbye() []byte {
	p := n.link.pair
	text, err := json.Marshal(goodbyeOf(p.cause))
	if err != nil {
		return nil // the peer sees the end of the connection instead
	}
	n.seq++
	return wire.AppendFrame(nil, &wire.Frame{Kind: wire.Goodbye, Epoch: p.ep.cfg.Epoch, Seq: n.seq, Number: n.link.lastNumber, Header: text})
}

// flush writes what there is to write, unless another goroutine writes: that one goes
// on until nothing is left.
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

// gather makes a batch of what can be sent. Where it returns true the caller has to
// write it.
func (n *lane) gather() bool {
	l := n.link
	l.pair.mu.Lock()
	defer l.pair.mu.Unlock()
	if n.state != laneIdle || l.pair.phase != up {
		return false
	}
	n.out.Reset()
	clear(n.messages) // so that they can be collected
	n.messages, n.frames = n.messages[:0], n.frames[:0]
	if l.carriesMessages(n) {
		n.gatherMessages()
	}
	if len(n.frames) == 0 {
		if !n.keepAliveDue && !(n == l.control() && l.window.grantDue()) {
			return false
		}
		n.frames = append(n.frames, wire.Frame{Kind: wire.KeepAlive})
	}
	n.numberFrames()
	if len(n.messages) > 0 {
		l.pair.writing++
	}
	n.move(laneBegun)
	return true
}

// gatherMessages dequeues messages up to the limits of a batch. The caller holds
// pair.mu.
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

// numberFrames numbers the gathered frames and encodes them. The first one gets the
// credits that this end owes, so that the peer has them before any body; but not
// where they would queue behind bodies that were sent before. The caller holds
// pair.mu.
func (n *lane) numberFrames() {
	if l := n.link; l.window.owes() && (n == l.control() || n.conn.unsent() == 0) {
		n.frames[0].Credits = l.window.grant()
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

// writeBatch writes until the batch is written or has failed. It returns false where
// the kernel has no room: then the connection has resume called later.
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

// resumeLater leaves the rest of the batch to the connection.
func (n *lane) resumeLater() {
	if err := n.conn.resumeLater(); err != nil {
		n.finishBatch(err)
	}
}

// resume is called by the connection, and goes on with a batch that was left to it.
func (n *lane) resume() {
	if n.writeBatch() {
		n.flush()
	}
}

// finishBatch reports the messages of the batch as sent, or lost, and lets the next
// batch begin.
func (n *lane) finishBatch(err error) {
	p := n.link.pair
	n.writingSince.Store(0)
	n.lastSent.Store(int64(now()))
	if err != nil {
		p.fail(n.link.bestCause(broken(fmt.Errorf("writing: %w", err))))
	}
	p.mu.Lock()
	n.reportBatch(err)
	if len(n.messages) > 0 {
		p.writing--
	}
	p.reportLoss()
	e := laneWritten
	if err != nil {
		e = laneFailed
	}
	do, goodbye := n.move(e)
	p.mu.Unlock()
	n.act(do, goodbye)
}

// reportBatch completes the batch's messages. The caller holds pair.mu.
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

// bytesRead is called by the connection: so many bytes were put into the assembler's
// space, or reading has failed. It returns false where the lane wants no more.
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

// BodyMemory is called by the assembler when the head of a frame has come.
func (n *lane) BodyMemory(f *wire.Frame) ([]byte, error) {
	b, err := n.checkFrame(f)
	if err != nil {
		return nil, fmt.Errorf("frame %d: %w", f.Seq, err)
	}
	return b, nil
}

// checkFrame checks the head of a frame against the lane's and the pair's state, takes
// its credits, and returns memory for its body.
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
		return make([]byte, min(f.Body, discardBytes)), nil // FrameComplete drops it
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

// FrameComplete is called by the assembler when a frame's body has come too.
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

// checkAlive is the watchdog's check. An error says why the lane has to be given up.
func (n *lane) checkAlive(now time.Duration) error {
	limit := n.link.pair.ep.cfg.PeerTimeout
	if now-time.Duration(n.lastReceived.Load()) > n.keepAliveAfter {
		n.readPending() // bytes may be there that are too few to wake the reader
	}
	silence := now - time.Duration(n.lastReceived.Load())
	if silence > limit && n.silentBefore {
		return fmt.Errorf("%w: nothing heard for %v, the limit is %v%s", ErrSilent, silence.Round(time.Millisecond), limit, n.stall.missing())
	}
	n.silentBefore = silence > limit // the reader may be late: the lane gets one more interval
	if err := n.stall.check(now, limit, n.leastProgress(limit)); err != nil {
		return err
	}
	if since := time.Duration(n.writingSince.Load()); since != 0 && now-since > limit {
		return fmt.Errorf("%w: a write is stuck for %v, the limit is %v", ErrSilent, (now - since).Round(time.Millisecond), limit)
	}
	n.countRetransmits()
	return nil
}

// opened returns the connection, nil before open.
func (n *lane) opened() connection {
	n.link.pair.mu.Lock()
	defer n.link.pair.mu.Unlock()
	return n.conn
}

func (n *lane) readPending() {
	if c := n.opened(); c != nil {
		c.readPending()
	}
}

// leastProgress is how many bytes of a frame have to come within a time: four times
// what the peer's keep-alives bring, which is a kilobyte in PeerTimeout where both ends
// have the same.
func (n *lane) leastProgress(within time.Duration) int {
	return 4 * wire.FixedBytes * max(1, int(within/n.keepAliveAfter))
}

// keepAliveIfDue sends a keep-alive where nothing was sent for keepAliveAfter.
func (n *lane) keepAliveIfDue(now time.Duration) {
	if now-time.Duration(n.lastSent.Load()) <= n.keepAliveAfter {
		return
	}
	n.link.pair.mu.Lock()
	n.keepAliveDue = true
	n.link.pair.mu.Unlock()
	n.flush()
}

// countRetransmits counts the TCP segments that the kernel has sent again since the
// last check.
func (n *lane) countRetransmits() {
	c := n.opened()
	if c == nil {
		return
	}
	if total, ok := c.retransmits(); ok {
		n.link.pair.counters.retransmits.Add(total - n.retransmits)
		n.retransmits = total
	}
}
