package m2n

import (
	"encoding/binary"
	"fmt"

	"github.com/tandem-moe/tandem/m2n/crc32c"
)

// assembler makes frames of the bytes of a stream, however they arrive, and puts
// bodies where they belong. It does not read: its user asks for space, puts bytes
// there, and tells how many.
type assembler struct {
	lim  bounds
	sink frameSink

	phase   phaseOfFrame
	want    []byte // what is still to come of the present part
	fixed   [fixedBytes]byte
	meta    []byte
	trailer [trailerBytes]byte
	sizes   sizes
	frame   frame
	sum     uint32 // of the body so far

	buf [readBuffer]byte // what comes after want
}

// readBuffer is small, so that most of a body goes straight to its slot.
const readBuffer = 16 << 10

// frameSink takes frames.
type frameSink interface {
	// place returns the memory for a frame's body; its header is valid.
	place(f *frame) ([]byte, error)
	// take is called when the body is there.
	take(f *frame) error
}

type phaseOfFrame uint8

const (
	inFixed phaseOfFrame = iota
	inMeta
	inBody
	inTrailer
)

func newAssembler(lim bounds, sink frameSink) *assembler {
	a := &assembler{lim: lim, sink: sink}
	a.want = a.fixed[:]
	return a
}

// space returns where the next bytes of the stream go, in order.
func (a *assembler) space() (want, after []byte) {
	if len(a.want) > piece {
		return a.want[:piece], nil // checksummed while it is in the cache
	}
	return a.want, a.buf[:]
}

// lacks is how many bytes are to come of the present part, at least.
func (a *assembler) lacks() int { return len(a.want) }

// advance takes the n bytes that have been put there. After an error it must not
// be called again.
func (a *assembler) advance(n int) error {
	k := min(n, len(a.want))
	a.took(k)
	if err := a.next(); err != nil {
		return err
	}
	return a.feed(a.buf[:n-k])
}

// shift moves n bytes that were put into the second part of the space to where
// they belong, and returns n.
func (a *assembler) shift(n int) int {
	k := copy(a.want, a.buf[:n])
	copy(a.buf[:], a.buf[k:n])
	return n
}

// feed takes bytes that are elsewhere.
func (a *assembler) feed(b []byte) error {
	for len(b) > 0 {
		k := copy(a.want, b)
		a.took(k)
		b = b[k:]
		if err := a.next(); err != nil {
			return err
		}
	}
	return nil
}

// took notes that k wanted bytes are there.
func (a *assembler) took(k int) {
	if a.phase == inBody && a.frame.hasTrailer() {
		a.sum = crc32c.Update(a.sum, a.want[:k])
	}
	a.want = a.want[k:]
}

// next goes on to the first part that wants bytes.
func (a *assembler) next() error {
	for len(a.want) == 0 {
		if err := a.step(); err != nil {
			return err
		}
	}
	return nil
}

// step ends the present part, which is complete, and begins the next one.
func (a *assembler) step() (err error) {
	switch a.phase {
	case inFixed:
		if a.frame, a.sizes, err = parseFixed(&a.fixed, a.lim); err != nil {
			return reading(err)
		}
		a.meta = make([]byte, a.sizes.meta())
		a.phase, a.want = inMeta, a.meta
	case inMeta:
		if err := a.frame.parseMeta(a.meta, a.sizes); err != nil {
			return reading(err)
		}
		a.sum = 0
		a.phase = inBody
		a.want, err = a.sink.place(&a.frame)
		return err
	case inBody:
		if a.frame.hasTrailer() {
			a.phase, a.want = inTrailer, a.trailer[:]
			return nil
		}
		return a.complete()
	case inTrailer:
		if want := binary.LittleEndian.Uint32(a.trailer[:]); a.sum != want {
			return fmt.Errorf("frame %d: %w: the checksum of the body is %08x, announced %08x", a.frame.seq, ErrBadFrame, a.sum, want)
		}
		return a.complete()
	}
	return nil
}

func (a *assembler) complete() error {
	a.phase, a.want = inFixed, a.fixed[:]
	return a.sink.take(&a.frame)
}

// between tells whether the stream is between two frames.
func (a *assembler) between() bool { return a.standing().between() }

// standing is how far the present frame has come.
type standing struct {
	phase phaseOfFrame
	seq   uint64 // of the frame, or of the one before where its fixed part is not here yet
	lacks int    // bytes of the phase's part that are to come
	of    int    // bytes of that part
}

func (a *assembler) standing() standing {
	s := standing{phase: a.phase, seq: a.frame.seq, lacks: len(a.want)}
	switch a.phase {
	case inFixed:
		s.of = fixedBytes
	case inMeta:
		s.of = len(a.meta)
	case inBody:
		s.of = a.frame.body
	case inTrailer:
		s.of = trailerBytes
	}
	return s
}

// between tells whether no frame has begun that has not ended.
func (s standing) between() bool { return s.phase == inFixed && s.lacks == fixedBytes }

// String names what is missing: "1000 of 4096 bytes of the body of frame 7".
func (s standing) String() string {
	part := [...]string{
		inFixed: "the frame after frame", inMeta: "the header of frame", inBody: "the body of frame", inTrailer: "the checksum of frame",
	}[s.phase]
	return fmt.Sprintf("%d of %d bytes of %s %d", s.lacks, s.of, part, s.seq)
}

func reading(err error) error { return fmt.Errorf("reading: %w", err) }
