package m2n

import (
	"fmt"
	"slices"
	"sync"
	"sync/atomic"

	"github.com/tandem-moe/tandem/m2n/internal/shm"
)

// Flow control, and what bounds a receiver's memory. A receiver has a receiveWindow per
// peer: Config.Slots slots of Config.SlotBytes, allocated when the pair connects. A
// credit is the right to send one message, of at most a slot. The sender's half is a
// sendWindow.
//
//	sender                                     receiver
//	sendWindow.open(limits)    ◀─ handshake ─  newReceiveWindow  all slots free, all credits with the sender
//	sendWindow.spend           ── message ──▶  claim             the message holds a slot
//	                                           free, owe         Release: the slot is free, a credit is owed
//	sendWindow.refill          ◀─ credits ───  grant             they travel with any frame
//
// So at every moment Slots = credits with the sender + messages under way + slots that
// hold a message + credits owed + credits under way. What a peer sends beyond its
// credits is a breach of the protocol and ends the pair.
//
// In shared memory a credit is the return of a certain slot and travels in the ring
// (shmTransport). In process there is no receive memory: a credit comes back with the
// sender's spans.

// sendWindow is what a pair may send to its peer. pair.mu guards it.
type sendWindow struct {
	limits
	credit int // messages that may be sent now
}

// limits are what the receiving end of a pair accepts.
type limits struct {
	slots       int // messages received or under way, and not released
	slotBytes   int // of a body
	headerBytes int
}

func (e *Endpoint) limits() limits {
	return limits{slots: e.cfg.Slots, slotBytes: e.cfg.SlotBytes, headerBytes: e.cfg.HeaderBytes}
}

// open is called when the receiver's limits are known.
func (w *sendWindow) open(lim limits) { *w = sendWindow{lim, lim.slots} }

// admits checks a message against the receiver's limits.
func (l limits) admits(o *outgoing) error {
	if o.bytes > l.slotBytes {
		return fmt.Errorf("%w: the body has %d bytes, the peer's slot %d", ErrTooLarge, o.bytes, l.slotBytes)
	}
	if len(o.header) > l.headerBytes {
		return fmt.Errorf("%w: the header has %d bytes, the peer takes %d", ErrTooLarge, len(o.header), l.headerBytes)
	}
	return nil
}

// spend uses one credit; false where there is none.
func (w *sendWindow) spend() bool {
	if w.credit == 0 {
		return false
	}
	w.credit--
	return true
}

// refill takes n credits that the peer gives back. An error says that they cannot be.
func (w *sendWindow) refill(n int) error {
	if w.credit+n > w.slots {
		return fmt.Errorf("%w: it gives back %d credits, %d of %d are out", ErrBadFrame, n, w.slots-w.credit, w.slots)
	}
	w.credit += n
	return nil
}

// receiveWindow is the memory into which one peer's messages are received, and the
// credits that this end owes the peer. The memory goes back to its owner when the
// connection has ended and the last message is released.
type receiveWindow struct {
	region     *Region
	freeMemory func()
	stride     int // bytes from one slot to the next

	mu    sync.Mutex
	slots []int // that are free
	all   int   // slots, free or not
	held  int   // slots that hold a message
	owed  int   // credits of released messages that no frame has carried yet
	refs  int   // held, and one for each that may still write to the memory
}

// newReceiveWindow makes a window with memory of Config.Alloc.
func newReceiveWindow(e *Endpoint) (*receiveWindow, error) {
	w := e.newWindow()
	var err error
	if w.region, err = e.alloc(w.stride * w.all); err != nil {
		return nil, fmt.Errorf("receive memory of %d slots of %d bytes: %w", w.all, w.stride, err)
	}
	w.freeMemory = func() { e.free(w.region) }
	return w, nil
}

// newWindow makes a window whose memory the caller sets.
func (e *Endpoint) newWindow() *receiveWindow {
	w := &receiveWindow{stride: shm.Stride(e.cfg.SlotBytes), freeMemory: func() {}, all: e.cfg.Slots, refs: 1}
	for i := range w.all {
		w.slots = append(w.slots, w.all-1-i)
	}
	return w
}

func (e *Endpoint) alloc(n int) (*Region, error) {
	if e.cfg.Alloc == nil {
		return &Region{Bytes: make([]byte, n)}, nil
	}
	e.allocMu.Lock()
	defer e.allocMu.Unlock()
	r, err := e.cfg.Alloc(n)
	if err == nil && len(r.Bytes) < n {
		err = fmt.Errorf("Config.Alloc returned %d bytes, asked for %d", len(r.Bytes), n)
		e.free(r)
	}
	return r, err
}

// free gives memory of Config.Alloc back.
func (e *Endpoint) free(r *Region) {
	if e.cfg.Free != nil {
		e.cfg.Free(r)
	}
}

// claimAny returns a free slot for a message that comes; false where the peer has sent
// without a credit.
func (w *receiveWindow) claimAny() (slot int, ok bool) {
	w.mu.Lock()
	defer w.mu.Unlock()
	last := len(w.slots) - 1
	if last < 0 {
		return 0, false
	}
	slot = w.slots[last]
	w.slots = w.slots[:last]
	w.held++
	w.refs++
	return slot, true
}

// claim takes the slot that the peer, or a fabric, has chosen for a message; false
// where it holds another message.
func (w *receiveWindow) claim(slot int) bool {
	w.mu.Lock()
	defer w.mu.Unlock()
	i := slices.Index(w.slots, slot)
	if i < 0 {
		return false
	}
	w.slots = slices.Delete(w.slots, i, i+1)
	w.held++
	w.refs++
	return true
}

// free empties a slot. The peer does not know of it before owe and grant.
func (w *receiveWindow) free(slot int) {
	w.mu.Lock()
	w.slots = append(w.slots, slot)
	w.held--
	w.mu.Unlock()
	w.release()
}

// owe notes that the peer is to get a credit back.
func (w *receiveWindow) owe() {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.owed++
}

// owes reports whether the peer is to get credits back.
func (w *receiveWindow) owes() bool {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.owed > 0
}

// grantDue reports whether owed credits should be sent at once, rather than with the
// next message: the peer has, for all that this end knows, less than half of its
// credits left.
func (w *receiveWindow) grantDue() bool {
	w.mu.Lock()
	defer w.mu.Unlock()
	left := w.all - w.held - w.owed
	return w.owed > 0 && 2*left < w.all
}

// grant returns the owed credits, which the caller sends to the peer.
func (w *receiveWindow) grant() uint32 {
	w.mu.Lock()
	defer w.mu.Unlock()
	n := w.owed
	w.owed = 0
	return uint32(n)
}

// retain keeps the memory for one more holder, until release.
func (w *receiveWindow) retain() {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.refs++
}

// release ends the hold of the connection, of a message, or of a retain.
func (w *receiveWindow) release() {
	w.mu.Lock()
	w.refs--
	last := w.refs == 0
	w.mu.Unlock()
	if last {
		w.freeMemory()
	}
}

// spans cuts the body in a slot as the sender did.
func (w *receiveWindow) spans(slot int, lengths []int) []Span {
	out := slices.Grow([]Span(nil), len(lengths))
	at := slot * w.stride
	for _, n := range lengths {
		out = append(out, Span{Region: w.region, Off: at, Len: n})
		at += n
	}
	return out
}

// bytes is the memory of a body of n bytes in a slot.
func (w *receiveWindow) bytes(slot, n int) []byte { return w.region.Bytes[slot*w.stride:][:n] }

// slotReceipt is what a receiver holds of a message in a slot.
type slotReceipt struct {
	link     *wireLink
	slot     int
	released atomic.Bool
}

func (r *slotReceipt) release() {
	if !r.released.Swap(true) {
		r.link.releaseSlot(r.slot)
	}
}

func (r *slotReceipt) drop() { r.release() }
