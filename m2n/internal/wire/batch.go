package wire

import (
	"encoding/binary"

	"github.com/tandem-moe/tandem/m2n/crc32c"
)

// Batch turns some frames and their bodies into the stream that is to be written. It
// hands out the stream in pieces and checksums a body's bytes right before it hands
// them out, so that they come from memory once. Bodies are not copied.
//
// A batch is filled with [Batch.AddFrame] and [Batch.AddBody], and emptied with
// [Batch.Next] and [Batch.Advance]. It keeps its memory over [Batch.Reset].
type Batch struct {
	head     []byte    // fixed and meta parts, and room for trailers
	segments []segment // of the stream, in order
	trailer  []byte    // of the last frame, nil where it has none; in no segment yet
	at       int       // the segment that comes next
	sum      uint32    // of the present body so far
	list     [][]byte  // memory of pending
	pending  [][]byte  // handed out by Next, not yet passed by Advance
}

// segment is a run of bytes of the stream.
type segment struct {
	bytes []byte
	kind  segmentKind
}

type segmentKind uint8

const (
	plain       segmentKind = iota
	summed                  // of a body that has a checksum
	bodyTrailer             // room for the checksum of the summed segments before it
)

// maxPieces is how many pieces Linux takes in one vectored write (IOV_MAX).
const maxPieces = 1024

// Reset empties the batch.
func (b *Batch) Reset() {
	clear(b.segments) // so that the bodies can be collected
	*b = Batch{head: b.head[:0], segments: b.segments[:0], list: b.list}
}

// AddFrame adds a frame. The caller then adds its body, f.Body bytes in all.
func (b *Batch) AddFrame(f *Frame) {
	b.endFrame()
	start := len(b.head)
	b.head = AppendFrame(b.head, f)
	b.add(b.head[start:], plain)
	if f.hasTrailer() {
		start = len(b.head)
		b.head = append(b.head, make([]byte, trailerBytes)...)
		b.trailer = b.head[start:]
	}
}

// AddBody adds bytes to the body of the last frame.
func (b *Batch) AddBody(bytes []byte) {
	kind := plain
	if b.trailer != nil {
		kind = summed
	}
	b.add(bytes, kind)
}

// endFrame adds the trailer of the last frame, where it has one.
func (b *Batch) endFrame() {
	b.add(b.trailer, bodyTrailer)
	b.trailer = nil
}

func (b *Batch) add(bytes []byte, kind segmentKind) {
	if len(bytes) > 0 {
		b.segments = append(b.segments, segment{bytes, kind})
	}
}

// Next returns the pieces that are to be written now, none at the end. It returns
// the same pieces until Advance says that they are written.
func (b *Batch) Next() [][]byte {
	if len(b.pending) == 0 {
		b.endFrame()
		b.fill(Piece)
	}
	return b.pending
}

// fill gathers limit bytes of summed bodies, and the segments around them. It takes
// up to twice the limit of one span where that ends the span: a short rest is not
// worth a write of its own.
func (b *Batch) fill(limit int) {
	b.list = b.list[:0]
	for b.at < len(b.segments) && len(b.list) < maxPieces {
		s := &b.segments[b.at]
		n := len(s.bytes)
		switch s.kind {
		case summed:
			if limit <= 0 {
				b.pending = b.list
				return
			}
			if n > 2*limit {
				n = limit
			}
			limit -= n
			b.sum = crc32c.Update(b.sum, s.bytes[:n])
		case bodyTrailer:
			binary.LittleEndian.PutUint32(s.bytes, b.sum)
			b.sum = 0
		}
		b.list = append(b.list, s.bytes[:n])
		if s.bytes = s.bytes[n:]; len(s.bytes) == 0 {
			b.at++
		}
	}
	b.pending = b.list
}

// Advance notes that the first n bytes of the pieces of Next are written.
func (b *Batch) Advance(n int) {
	for n > 0 && n >= len(b.pending[0]) {
		n -= len(b.pending[0])
		b.pending = b.pending[1:]
	}
	if n > 0 {
		b.pending[0] = b.pending[0][n:]
	}
}
