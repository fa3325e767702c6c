package m2n

import (
	"encoding/binary"

	"github.com/tandem-moe/tandem/m2n/crc32c"
)

// batch is what one turn of writing takes to the peer: some messages, or a note.
// It hands out pieces that are checksummed right before they are written, so
// that they are read from memory once.
type batch struct {
	messages []*outgoing
	frames   []frame
	head     []byte   // fixed and meta parts, and room for trailers
	parts    []part   // of the stream, in order
	at       int      // the part that comes next
	sum      uint32   // of the body so far
	list     [][]byte // memory of pending
	pending  [][]byte // what next has returned and is not out
}

type part struct {
	bytes []byte
	kind  partKind
}

type partKind uint8

const (
	plainPart   partKind = iota
	bodyPart             // of a body that is checksummed
	trailerPart          // holds the checksum of the body parts before it
)

// maxPieces is what the kernel takes in one vectored write.
const maxPieces = 1024

func (b *batch) reset() {
	clear(b.messages)
	clear(b.parts)
	*b = batch{messages: b.messages[:0], frames: b.frames[:0], head: b.head[:0], parts: b.parts[:0], list: b.list}
}

// encode lays out the stream. bodies[i] belongs to frames[i].
func (b *batch) encode() {
	for i := range b.frames {
		b.head = appendFrame(b.head, &b.frames[i])
		b.head = append(b.head, make([]byte, trailerBytes)...)
	}
	rest := b.head
	for i := range b.frames {
		f := &b.frames[i]
		n := fixedBytes + 4*len(f.lengths) + len(f.header)
		b.add(rest[:n], plainPart)
		if i < len(b.messages) {
			b.addBody(b.messages[i].body, f.hasTrailer())
		}
		if f.hasTrailer() {
			b.add(rest[n:n+trailerBytes], trailerPart)
		}
		rest = rest[n+trailerBytes:]
	}
}

func (b *batch) addBody(spans []Span, summed bool) {
	kind := plainPart
	if summed {
		kind = bodyPart
	}
	for _, s := range spans {
		b.add(s.Bytes(), kind)
	}
}

func (b *batch) add(bytes []byte, kind partKind) {
	if len(bytes) > 0 {
		b.parts = append(b.parts, part{bytes, kind})
	}
}

// next returns what is to be written now, nil at the end. It returns the same
// until advance says that it is out.
func (b *batch) next() [][]byte {
	if len(b.pending) == 0 {
		b.fill(piece)
	}
	return b.pending
}

// fill gathers limit bytes of bodies, up to twice that where it is the rest of a
// span, and the small parts around them: a short rest is not worth a write.
func (b *batch) fill(limit int) {
	b.list = b.list[:0]
	for b.at < len(b.parts) && len(b.list) < maxPieces {
		p := &b.parts[b.at]
		n := len(p.bytes)
		switch p.kind {
		case bodyPart:
			if limit <= 0 {
				b.pending = b.list
				return
			}
			if n > 2*limit {
				n = limit
			}
			limit -= n
			b.sum = crc32c.Update(b.sum, p.bytes[:n])
		case trailerPart:
			binary.LittleEndian.PutUint32(p.bytes, b.sum)
			b.sum = 0
		}
		b.list = append(b.list, p.bytes[:n])
		if p.bytes = p.bytes[n:]; len(p.bytes) == 0 {
			b.at++
		}
	}
	b.pending = b.list
}

// advance notes that n bytes of what next returned are out.
func (b *batch) advance(n int) {
	for n > 0 && n >= len(b.pending[0]) {
		n -= len(b.pending[0])
		b.pending = b.pending[1:]
	}
	if n > 0 {
		b.pending[0] = b.pending[0][n:]
	}
}
