package m2n

import (
	"encoding/binary"
	"fmt"
	"sync/atomic"
	"time"
	"unsafe"

	"github.com/tandem-moe/tandem/m2n/internal/wire"
)

// A ring is how messages of one pair and direction go through memory. It belongs
// to the receiver, and both ends have it mapped:
//
//	header       the two counts
//	descriptors  one per slot, used in turn: what the sender has written
//	returns      one per slot, used in turn: slots that the receiver gives back
//	metas        one per slot: the lengths of the spans, then the header
//	slots        the bodies
//
// The sender chooses among the slots that are free, writes body, meta and
// descriptor, and then the count of messages; the receiver reads in place, and
// answers with the slot and the count of returns. Neither waits for the other.
//
// What the other end can write may change while it is read, and may be anything:
// it is copied before it is checked, and only the copy is used.
type ring struct {
	mem    []byte
	layout ringLayout
}

// ringLayout is where the parts of a ring are.
type ringLayout struct {
	slots, slotBytes, headerBytes int
	metaBytes, stride             int
	returns, metas, bodies, total int // offsets
}

// maxRingBytes bounds the memory that a peer can have this end map.
const maxRingBytes = 1 << 40

func newRingLayout(lim limits) (ringLayout, error) {
	l := ringLayout{slots: lim.slots, slotBytes: lim.slotBytes, headerBytes: lim.headerBytes}
	l.metaBytes = roundUp(lim.headerBytes+4*MaxSpans, pageBytes)
	l.stride = roundUp(lim.slotBytes, slotAlign)
	l.returns = ringHeaderBytes + descriptorBytes*lim.slots
	l.metas = roundUp(l.returns+4*lim.slots, pageBytes)
	l.bodies = l.metas + l.metaBytes*lim.slots
	l.total = roundUp(l.bodies+l.stride*lim.slots, pageBytes)
	if l.total > maxRingBytes {
		return l, fmt.Errorf("shared memory of %d bytes for %d slots of %d bytes, the limit is %d", l.total, lim.slots, lim.slotBytes, maxRingBytes)
	}
	return l, nil
}

func roundUp(n, to int) int { return (n + to - 1) / to * to }

const (
	pageBytes       = 4096
	ringHeaderBytes = 128 // the counts are in cache lines of their own
	descriptorBytes = 64
)

// posted is the count of messages, which the sender writes.
func (r *ring) posted() *atomic.Uint64 { return (*atomic.Uint64)(unsafe.Pointer(&r.mem[0])) }

// starving is 1 while the sender has messages and no free slot; the sender writes
// it, and the receiver takes it back.
func (r *ring) starving() *atomic.Uint32 { return (*atomic.Uint32)(unsafe.Pointer(&r.mem[8])) }

// returned is the count of returns, which the receiver writes.
func (r *ring) returned() *atomic.Uint64 { return (*atomic.Uint64)(unsafe.Pointer(&r.mem[64])) }

// descriptor says what is in a slot.
type descriptor struct {
	slot, header, spans int
	body                int
	posted              int64 // nanoseconds of the host's monotonic clock
}

func (r *ring) descriptorAt(n uint64) []byte {
	return r.mem[ringHeaderBytes+descriptorBytes*int(n%uint64(r.layout.slots)):][:descriptorBytes]
}

func (r *ring) putDescriptor(n uint64, d descriptor) {
	b := r.descriptorAt(n)
	binary.LittleEndian.PutUint32(b, uint32(d.slot))
	binary.LittleEndian.PutUint32(b[4:], uint32(d.header))
	binary.LittleEndian.PutUint32(b[8:], uint32(d.spans))
	binary.LittleEndian.PutUint64(b[16:], uint64(d.body))
	binary.LittleEndian.PutUint64(b[24:], uint64(d.posted))
}

// descriptor reads the n-th message's, which is within the layout.
func (r *ring) descriptor(n uint64) (descriptor, error) {
	var b [descriptorBytes]byte
	copy(b[:], r.descriptorAt(n))
	le := binary.LittleEndian
	lim := wire.Bounds{Header: r.layout.headerBytes, Spans: MaxSpans, Body: r.layout.slotBytes}
	s, err := lim.Check(uint64(le.Uint32(b[4:])), uint64(le.Uint32(b[8:])), le.Uint64(b[16:]))
	if err != nil {
		return descriptor{}, err
	}
	slot := le.Uint32(b[:])
	if slot >= uint32(r.layout.slots) {
		return descriptor{}, fmt.Errorf("%w: slot %d of %d", ErrBadFrame, slot, r.layout.slots)
	}
	return descriptor{int(slot), s.Header, s.Spans, s.Body, int64(le.Uint64(b[24:]))}, nil
}

// meta is the part of a slot for lengths and header.
func (r *ring) meta(slot int) []byte {
	return r.mem[r.layout.metas+slot*r.layout.metaBytes:][:r.layout.metaBytes]
}

// bodies are all slots' bodies.
func (r *ring) bodies() []byte {
	return r.mem[r.layout.bodies:][:r.layout.stride*r.layout.slots]
}

func (r *ring) body(slot int) []byte { return r.bodies()[slot*r.layout.stride:][:r.layout.slotBytes] }

// write puts a message into a slot and publishes it as the n-th.
func (r *ring) write(n uint64, slot int, o *outgoing) {
	meta, body := r.meta(slot), r.body(slot)
	for i, s := range o.body {
		binary.LittleEndian.PutUint32(meta[4*i:], uint32(s.Len))
		body = body[copy(body, s.Bytes()):]
	}
	copy(meta[4*len(o.body):], o.header)
	r.putDescriptor(n, descriptor{slot, len(o.header), len(o.body), o.bytes, hostNanos(o.posted)})
	r.posted().Store(n + 1)
}

// read returns the n-th message's parts.
func (r *ring) read(n uint64) (d descriptor, lengths []int, header []byte, err error) {
	if d, err = r.descriptor(n); err != nil {
		return d, nil, nil, err
	}
	meta := append([]byte(nil), r.meta(d.slot)[:4*d.spans+d.header]...)
	lengths, err = wire.SpanLengths(meta, d.spans, d.body)
	return d, lengths, meta[4*d.spans:], err
}

// putReturn gives a slot back as the n-th.
func (r *ring) putReturn(n uint64, slot int) {
	at := r.layout.returns + 4*int(n%uint64(r.layout.slots))
	(*atomic.Uint32)(unsafe.Pointer(&r.mem[at])).Store(uint32(slot))
	r.returned().Store(n + 1)
}

// returnedSlot reads the n-th return.
func (r *ring) returnedSlot(n uint64) int {
	at := r.layout.returns + 4*int(n%uint64(r.layout.slots))
	return int((*atomic.Uint32)(unsafe.Pointer(&r.mem[at])).Load())
}

// board is the memory of an endpoint that its peers write to, to say that a ring
// has something for it: one bit per ring, and whether it sleeps.
type board struct{ mem []byte }

const (
	boardRings = 4096 // bounds the rings of an endpoint
	boardBytes = 64 + boardRings/8
)

// asleep is 1 while the owner waits in its gate.
func (b board) asleep() *atomic.Uint32 { return (*atomic.Uint32)(unsafe.Pointer(&b.mem[0])) }

func (b board) word(i int) *atomic.Uint64 {
	return (*atomic.Uint64)(unsafe.Pointer(&b.mem[64+8*i]))
}

// set says that ring i has something.
func (b board) set(i int) { b.word(i / 64).Or(1 << (i % 64)) }

// wakes tells whether the owner has to be woken; of several it is told to one.
func (b board) wakes() bool { return b.asleep().Load() != 0 && b.asleep().Swap(0) != 0 }

// began is the origin of this process's monotonic times, and beganHost the same
// moment by the clock that all processes of the host share.
var (
	began     = time.Now()
	beganHost = hostClock()
)

func now() time.Duration { return time.Since(began) }

func hostNanos(t time.Time) int64 { return beganHost + int64(t.Sub(began)) }

func hostTime(nanos int64) time.Time { return began.Add(time.Duration(nanos - beganHost)) }

// longestWait bounds how long a message can have been on its way, as a peer says.
const longestWait = time.Hour

// postedAt is when a peer says that it posted a message, now where that cannot be.
func postedAt(nanos int64) time.Time {
	now := hostNanos(time.Now())
	if nanos > now || nanos < now-int64(longestWait) {
		nanos = now
	}
	return hostTime(nanos)
}
