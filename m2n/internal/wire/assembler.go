package wire

import (
	"encoding/binary"
	"fmt"

	"github.com/tandem-moe/tandem/m2n/crc32c"
)

// Assembler makes frames of the bytes of a stream, however they are cut into reads,
// and has each body written to its final place. It does not read: its caller asks for
// [Assembler.Space], reads bytes into it, and says how many with [Assembler.Advance].
type Assembler struct {
	lim  Bounds
	sink Sink

	part    Part
	want    []byte // memory for the bytes of the part that come next
	later   int    // bytes of the body that come after want
	fixed   [FixedBytes]byte
	meta    []byte
	trailer [trailerBytes]byte
	sizes   Sizes
	frame   Frame
	body    []byte // memory of the sink
	sum     uint32 // of the body so far

	buf [ReadBuffer]byte // for the bytes that follow want
}

// ReadBuffer is how many bytes beyond the present part one read can take. It is
// small, so that most of a body is read straight to its place.
const ReadBuffer = 16 << 10

// Sink takes the frames of an [Assembler]. An error ends the stream.
type Sink interface {
	// BodyMemory returns memory for the f.Body bytes of a frame's body. The rest of
	// the frame has been checked. A sink that does not want the body returns fewer
	// bytes, at least one: each part of the body then overwrites the part before.
	BodyMemory(f *Frame) ([]byte, error)
	// FrameComplete is called when the whole body has been written to that memory and
	// its checksum is right.
	FrameComplete(f *Frame) error
}

// Part is a part of a frame on the stream.
type Part uint8

// Parts, in their order on the stream.
const (
	PartFixed Part = iota
	PartMeta
	PartBody
	PartTrailer
)

// NewAssembler returns an assembler at the beginning of a stream.
func NewAssembler(lim Bounds, sink Sink) *Assembler {
	a := &Assembler{lim: lim, sink: sink}
	a.want = a.fixed[:]
	return a
}

// Space returns where the next bytes of the stream go: first want, then after.
func (a *Assembler) Space() (want, after []byte) {
	if len(a.want) > Piece {
		return a.want[:Piece], nil // so that it is checksummed while it is in the cache
	}
	return a.want, a.buf[:]
}

// Missing is how many bytes of the present part are still to come. It is never 0.
func (a *Assembler) Missing() int { return len(a.want) + a.later }

// Advance says that the caller has put n bytes into the space. After an error it must
// not be called again.
func (a *Assembler) Advance(n int) error {
	k := min(n, len(a.want))
	a.consume(k)
	if err := a.finishParts(); err != nil {
		return err
	}
	return a.feed(a.buf[:n-k])
}

// Shift is for callers that can read into one piece of memory only: it moves the n
// bytes that they have put into the second part of the space to where they belong.
// It returns n, for Advance.
func (a *Assembler) Shift(n int) int {
	k := copy(a.want, a.buf[:n])
	copy(a.buf[:], a.buf[k:n])
	return n
}

// feed copies the bytes b, which follow in the stream, to where they belong.
func (a *Assembler) feed(b []byte) error {
	for len(b) > 0 {
		k := copy(a.want, b)
		a.consume(k)
		b = b[k:]
		if err := a.finishParts(); err != nil {
			return err
		}
	}
	return nil
}

// consume notes that the first k bytes of want have come.
func (a *Assembler) consume(k int) {
	if a.part == PartBody && a.frame.hasTrailer() {
		a.sum = crc32c.Update(a.sum, a.want[:k])
	}
	a.want = a.want[k:]
}

// finishParts ends parts until one wants bytes: an empty part ends at once.
func (a *Assembler) finishParts() error {
	for len(a.want) == 0 {
		if err := a.finishPart(); err != nil {
			return err
		}
	}
	return nil
}

// finishPart checks the present part, which is complete, and begins the next one.
func (a *Assembler) finishPart() (err error) {
	switch a.part {
	case PartFixed:
		if a.frame, a.sizes, err = parseFixed(&a.fixed, a.lim); err != nil {
			return reading(err)
		}
		a.meta = make([]byte, a.sizes.meta())
		a.part, a.want = PartMeta, a.meta
	case PartMeta:
		if err := a.frame.parseMeta(a.meta, a.sizes); err != nil {
			return reading(err)
		}
		a.sum = 0
		a.part, a.later = PartBody, a.frame.Body
		a.body, err = a.sink.BodyMemory(&a.frame)
		a.wantBody()
		return err
	case PartBody:
		if a.later > 0 {
			a.wantBody()
			return nil
		}
		if a.frame.hasTrailer() {
			a.part, a.want = PartTrailer, a.trailer[:]
			return nil
		}
		return a.complete()
	case PartTrailer:
		if want := binary.LittleEndian.Uint32(a.trailer[:]); a.sum != want {
			return fmt.Errorf("frame %d: %w: the checksum of the body is %08x, announced %08x", a.frame.Seq, ErrBadFrame, a.sum, want)
		}
		return a.complete()
	}
	return nil
}

// wantBody has the next bytes of the body written to the sink's memory.
func (a *Assembler) wantBody() {
	a.want = a.body[:min(len(a.body), a.later)]
	a.later -= len(a.want)
}

func (a *Assembler) complete() error {
	a.part, a.want = PartFixed, a.fixed[:]
	return a.sink.FrameComplete(&a.frame)
}

func reading(err error) error { return fmt.Errorf("reading: %w", err) }

// AtBoundary reports whether the stream is between two frames.
func (a *Assembler) AtBoundary() bool { return a.Position().AtBoundary() }

// Position is how far the stream has come.
type Position struct {
	Part    Part   // the present one
	Seq     uint64 // of the present frame; in its fixed part, of the frame before
	Missing int    // bytes of the part that are still to come
	Of      int    // bytes of the part
}

// Position returns how far the stream has come.
func (a *Assembler) Position() Position {
	p := Position{Part: a.part, Seq: a.frame.Seq, Missing: a.Missing()}
	switch a.part {
	case PartFixed:
		p.Of = FixedBytes
	case PartMeta:
		p.Of = len(a.meta)
	case PartBody:
		p.Of = a.frame.Body
	case PartTrailer:
		p.Of = trailerBytes
	}
	return p
}

// AtBoundary reports whether the position is between two frames.
func (p Position) AtBoundary() bool { return p.Part == PartFixed && p.Missing == FixedBytes }

// String names what is missing: "1000 of 4096 bytes of the body of frame 7".
func (p Position) String() string {
	part := [...]string{
		PartFixed: "the frame after frame", PartMeta: "the header of frame", PartBody: "the body of frame", PartTrailer: "the checksum of frame",
	}[p.Part]
	return fmt.Sprintf("%d of %d bytes of %s %d", p.Missing, p.Of, part, p.Seq)
}
