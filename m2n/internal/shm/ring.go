package shm

import (
	"encoding/binary"
	"fmt"
	"sync/atomic"
	"time"
	"unsafe"

	"github.com/tandem-moe/tandem/m2n/internal/wire"
)

// Ring is the memory by which the messages of one pair and direction travel. It
// belongs to the receiver, and both ends have it mapped:
//
//	header       the counts of messages and of returns, and the starving flag
//	descriptors  one per slot, used in turn: what the sender has written
//	returns      one per slot, used in turn: the slots that the receiver gives back
//	metas        one per slot: the lengths of the spans, then the header
//	bodies       one per slot
//
// The sender chooses among the slots that are free, writes body, meta and descriptor,
// and then the count of messages. The receiver reads the body where it is, and when it
// has done with the slot it writes a return and the count of returns. Neither waits
// for the other.
type Ring struct {
	mem []byte
	Layout
}

// NewRing returns the ring in mem, of layout.Bytes bytes. Memory of zeros is an empty
// ring.
func NewRing(mem []byte, layout Layout) *Ring { return &Ring{mem, layout} }

// Layout is where the parts of a ring are. Both ends compute it from the same limits.
type Layout struct {
	Slots       int
	SlotBytes   int // the longest body
	HeaderBytes int // the longest header
	Stride      int // bytes from one slot's body to the next one's
	Bytes       int // of the ring

	metaBytes              int
	returns, metas, bodies int // offsets
}

const (
	// PageBytes is what the sizes of segments are multiples of.
	PageBytes = 4096
	// RingHeaderBytes keeps the counts of the two ends in cache lines of their own.
	RingHeaderBytes = 128
	descriptorBytes = 64
	slotAlign       = 64
	// maxRingBytes bounds the memory that a peer can have this end map.
	maxRingBytes = 1 << 40
)

// Stride is how many bytes one slot begins after the other, for bodies of up to
// slotBytes.
func Stride(slotBytes int) int { return roundUp(slotBytes, slotAlign) }

func roundUp(n, to int) int { return (n + to - 1) / to * to }

// NewLayout returns the layout of a ring with these limits, which must be at most
// 1<<16 slots and 1<<31 bytes. An error says that the ring would be too large.
func NewLayout(slots, slotBytes, headerBytes int) (Layout, error) {
	l := Layout{Slots: slots, SlotBytes: slotBytes, HeaderBytes: headerBytes, Stride: Stride(slotBytes)}
	l.metaBytes = roundUp(headerBytes+4*wire.MaxSpans, PageBytes)
	l.returns = RingHeaderBytes + descriptorBytes*slots
	l.metas = roundUp(l.returns+4*slots, PageBytes)
	l.bodies = l.metas + l.metaBytes*slots
	l.Bytes = roundUp(l.bodies+l.Stride*slots, PageBytes)
	if l.Bytes > maxRingBytes {
		return l, fmt.Errorf("shared memory of %d bytes for %d slots of %d bytes, the limit is %d", l.Bytes, slots, slotBytes, maxRingBytes)
	}
	return l, nil
}

// Posted is the count of messages, which the sender writes.
func (r *Ring) Posted() *atomic.Uint64 { return (*atomic.Uint64)(unsafe.Pointer(&r.mem[0])) }

// Starving is 1 while the sender has messages and no free slot. The sender sets it;
// the receiver clears it and rings the sender's doorbell when it returns a slot.
func (r *Ring) Starving() *atomic.Uint32 { return (*atomic.Uint32)(unsafe.Pointer(&r.mem[8])) }

// Returned is the count of returns, which the receiver writes.
func (r *Ring) Returned() *atomic.Uint64 { return (*atomic.Uint64)(unsafe.Pointer(&r.mem[64])) }

// Meta is the part of a slot for lengths and header.
func (r *Ring) Meta(slot int) []byte { return r.mem[r.metas+slot*r.metaBytes:][:r.metaBytes] }

// Bodies are the bodies of all slots, Stride bytes apart.
func (r *Ring) Bodies() []byte { return r.mem[r.bodies:][:r.Stride*r.Slots] }

func (r *Ring) body(slot int) []byte { return r.Bodies()[slot*r.Stride:][:r.SlotBytes] }

// Descriptor says what is in a slot.
type Descriptor struct {
	Slot   int
	Header int   // bytes
	Spans  int   // whose lengths stand before the header
	Body   int   // bytes
	Posted int64 // nanoseconds of the host's monotonic clock
}

func (r *Ring) descriptorAt(n uint64) []byte {
	return r.mem[RingHeaderBytes+descriptorBytes*int(n%uint64(r.Slots)):][:descriptorBytes]
}

// PutDescriptor writes the descriptor of message n, from 0.
func (r *Ring) PutDescriptor(n uint64, d Descriptor) {
	b := r.descriptorAt(n)
	binary.LittleEndian.PutUint32(b, uint32(d.Slot))
	binary.LittleEndian.PutUint32(b[4:], uint32(d.Header))
	binary.LittleEndian.PutUint32(b[8:], uint32(d.Spans))
	binary.LittleEndian.PutUint64(b[16:], uint64(d.Body))
	binary.LittleEndian.PutUint64(b[24:], uint64(d.Posted))
}

// descriptor reads the descriptor of message n and holds it to the layout.
func (r *Ring) descriptor(n uint64) (Descriptor, error) {
	var b [descriptorBytes]byte
	copy(b[:], r.descriptorAt(n))
	le := binary.LittleEndian
	lim := wire.Bounds{Header: r.HeaderBytes, Spans: wire.MaxSpans, Body: r.SlotBytes}
	s, err := lim.Check(uint64(le.Uint32(b[4:])), uint64(le.Uint32(b[8:])), le.Uint64(b[16:]))
	if err != nil {
		return Descriptor{}, err
	}
	slot := le.Uint32(b[:])
	if slot >= uint32(r.Slots) {
		return Descriptor{}, fmt.Errorf("%w: slot %d of %d", wire.ErrBadFrame, slot, r.Slots)
	}
	return Descriptor{int(slot), s.Header, s.Spans, s.Body, int64(le.Uint64(b[24:]))}, nil
}

// Writer writes one message into a slot: its spans, and then Publish.
type Writer struct {
	meta, body []byte // what is left of the slot
	d          Descriptor
}

// Write begins a message in a slot that is free.
func (r *Ring) Write(slot int) Writer {
	return Writer{meta: r.Meta(slot), body: r.body(slot), d: Descriptor{Slot: slot}}
}

// Span copies a span to the end of the body.
func (w *Writer) Span(b []byte) {
	binary.LittleEndian.PutUint32(w.meta, uint32(len(b)))
	w.meta = w.meta[4:]
	w.body = w.body[copy(w.body, b):]
	w.d.Spans++
	w.d.Body += len(b)
}

// Publish copies the header and shows the message to the receiver as message n.
func (r *Ring) Publish(n uint64, w Writer, header []byte, posted time.Time) {
	copy(w.meta, header)
	w.d.Header, w.d.Posted = len(header), hostNanos(posted)
	r.PutDescriptor(n, w.d)
	r.Posted().Store(n + 1)
}

// Message is what Read reads.
type Message struct {
	Slot    int
	Body    int       // bytes in the slot
	Lengths []int     // of the spans; their sum is Body
	Header  []byte    // a copy
	Posted  time.Time // as the sender says, where that can be
}

// Read reads message n, which must have been published. The body stays in its slot.
func (r *Ring) Read(n uint64) (Message, error) {
	d, err := r.descriptor(n)
	if err != nil {
		return Message{}, err
	}
	meta := append([]byte(nil), r.Meta(d.Slot)[:4*d.Spans+d.Header]...)
	lengths, err := wire.SpanLengths(meta, d.Spans, d.Body)
	return Message{d.Slot, d.Body, lengths, meta[4*d.Spans:], postedAt(d.Posted)}, err
}

// PutReturn gives a slot back to the sender, as return n.
func (r *Ring) PutReturn(n uint64, slot int) {
	r.returnAt(n).Store(uint32(slot))
	r.Returned().Store(n + 1)
}

// Return reads return n. The slot may be any number of 32 bits.
func (r *Ring) Return(n uint64) (slot int) { return int(r.returnAt(n).Load()) }

func (r *Ring) returnAt(n uint64) *atomic.Uint32 {
	at := r.returns + 4*int(n%uint64(r.Slots))
	return (*atomic.Uint32)(unsafe.Pointer(&r.mem[at]))
}
