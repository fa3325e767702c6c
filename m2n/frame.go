package m2n

import (
	"encoding/binary"
	"errors"
	"fmt"
	"io"

	"github.com/tandem-moe/tandem/m2n/crc32c"
)

// A frame on a stream, little-endian:
//
//	 0 magic "M2N\n"    4 version   5 type    6 flags (2)
//	 8 epoch of the sender (8)     16 sequence number in this direction (8)
//	24 bytes of the header (4)     28 number of spans (4)
//	32 bytes of the body (8)       40 credits given back (4)
//	44 CRC of the meta part (4)    48 number of the message in this direction (8)
//	56 zero (4)                    60 CRC of bytes 0 to 59 (4)
//	64 meta: the length of each span (4 each), then the header
//	   body
//	   CRC of the body (4), where the flag says so and there is a body
//
// All checksums are CRC32C. That of the body stands behind it, so that sending
// and checksumming overlap.
const (
	frameMagic   = "M2N\n"
	frameVersion = 2
	fixedBytes   = 64
	trailerBytes = 4
)

type frameType uint8

// Types. Each may carry credits.
const (
	frameHello   frameType = iota + 1 // of the end that dials: a greeting
	frameWelcome                      // the answer: a greeting
	frameReady                        // all connections are there: a greeting
	frameRefuse                       // or this: a refusal
	frameData                         // a message
	frameNote                         // credits, or just a sign of life
	frameGoodbye                      // the last one, with the reason
	frameTypes
)

// flagBodySum says that a checksum follows the body.
const flagBodySum = 1

// frame is the fixed part, and its meta part once read.
type frame struct {
	kind    frameType
	flags   uint16
	epoch   uint64
	seq     uint64 // of the frame on its connection
	number  uint64 // of the message, over all connections of the pair
	grant   uint32
	body    int
	lengths []int // of the spans
	header  []byte
}

// bounds are what a reader takes of one frame.
type bounds struct{ header, spans, body int }

// controlBytes bounds the headers of all frames but data.
const controlBytes = 4 << 10

// handshakeBounds are those before the ends know each other.
var handshakeBounds = bounds{header: controlBytes}

// versionError is a frame of another protocol version.
type versionError struct{ got byte }

func (e *versionError) Error() string {
	return fmt.Sprintf("protocol version %d, this end speaks %d", e.got, frameVersion)
}

func (e *versionError) Unwrap() error { return ErrBadFrame }

// sizes are the announced lengths of a frame's parts.
type sizes struct {
	header, spans, body int
	metaSum             uint32
}

func (s sizes) meta() int { return 4*s.spans + s.header }

// parseFixed reads the fixed part. Nothing is allocated for what it announces
// before that is within the bounds.
func parseFixed(b *[fixedBytes]byte, lim bounds) (frame, sizes, error) {
	le := binary.LittleEndian
	if string(b[:4]) != frameMagic {
		return frame{}, sizes{}, fmt.Errorf("%w: it begins with %q", ErrBadFrame, b[:4])
	}
	if b[4] != frameVersion {
		return frame{}, sizes{}, &versionError{b[4]}
	}
	if sum, want := crc32c.Update(0, b[:60]), le.Uint32(b[60:]); sum != want {
		return frame{}, sizes{}, fmt.Errorf("%w: the checksum of the fixed part is %08x, announced %08x", ErrBadFrame, sum, want)
	}
	f := frame{kind: frameType(b[5]), flags: le.Uint16(b[6:]), epoch: le.Uint64(b[8:]), seq: le.Uint64(b[16:]), number: le.Uint64(b[48:]), grant: le.Uint32(b[40:])}
	if f.kind == 0 || f.kind >= frameTypes || f.flags&^flagBodySum != 0 || le.Uint32(b[56:]) != 0 {
		return frame{}, sizes{}, fmt.Errorf("%w: type %d, flags %#x", ErrBadFrame, f.kind, f.flags)
	}
	if f.kind != frameData {
		lim = handshakeBounds
	}
	s, err := lim.admit(uint64(le.Uint32(b[24:])), uint64(le.Uint32(b[28:])), le.Uint64(b[32:]))
	s.metaSum = le.Uint32(b[44:])
	f.body = s.body
	return f, s, err
}

func (lim bounds) admit(header, spans, body uint64) (sizes, error) {
	for _, part := range []struct {
		name  string
		n     uint64
		limit int
	}{{"bytes of header", header, lim.header}, {"spans", spans, lim.spans}, {"bytes of body", body, lim.body}} {
		if part.n > uint64(part.limit) {
			return sizes{}, fmt.Errorf("%w: it announces %d %s, the limit is %d", ErrBadFrame, part.n, part.name, part.limit)
		}
	}
	return sizes{header: int(header), spans: int(spans), body: int(body)}, nil
}

// parseMeta reads the meta part into f.
func (f *frame) parseMeta(meta []byte, s sizes) error {
	if sum := crc32c.Update(0, meta); sum != s.metaSum {
		return fmt.Errorf("%w: the checksum of the header is %08x, announced %08x", ErrBadFrame, sum, s.metaSum)
	}
	var err error
	f.lengths, err = spanLengths(meta, s.spans, s.body)
	f.header = meta[4*s.spans:]
	return err
}

// spanLengths reads the lengths of the spans of a body.
func spanLengths(meta []byte, spans, body int) ([]int, error) {
	total := uint64(0)
	lengths := make([]int, spans)
	for i := range lengths {
		n := binary.LittleEndian.Uint32(meta[4*i:])
		lengths[i] = int(n)
		total += uint64(n)
	}
	if total != uint64(body) {
		return nil, fmt.Errorf("%w: the spans have %d bytes, the body %d", ErrBadFrame, total, body)
	}
	return lengths, nil
}

// appendFrame encodes the fixed and the meta part. f.body must be the sum of
// f.lengths.
func appendFrame(dst []byte, f *frame) []byte {
	le := binary.LittleEndian
	start := len(dst)
	dst = append(dst, frameMagic...)
	dst = append(dst, frameVersion, byte(f.kind))
	dst = le.AppendUint16(dst, f.flags)
	dst = le.AppendUint64(dst, f.epoch)
	dst = le.AppendUint64(dst, f.seq)
	dst = le.AppendUint32(dst, uint32(len(f.header)))
	dst = le.AppendUint32(dst, uint32(len(f.lengths)))
	dst = le.AppendUint64(dst, uint64(f.body))
	dst = le.AppendUint32(dst, f.grant)
	dst = le.AppendUint32(dst, 0) // the sum of what follows
	dst = le.AppendUint64(dst, f.number)
	dst = append(dst, make([]byte, fixedBytes-56)...)
	for _, n := range f.lengths {
		dst = le.AppendUint32(dst, uint32(n))
	}
	dst = append(dst, f.header...)
	le.PutUint32(dst[start+44:], crc32c.Update(0, dst[start+fixedBytes:]))
	le.PutUint32(dst[start+60:], crc32c.Update(0, dst[start:start+60]))
	return dst
}

// hasTrailer reports whether a checksum follows the body.
func (f *frame) hasTrailer() bool { return f.flags&flagBodySum != 0 && f.body > 0 }

// readControl reads one frame without a body, and not a byte more: handshakes
// are read so, before the ends know each other. io.EOF means that the stream
// ended before the frame.
func readControl(r io.Reader) (frame, error) {
	var fixed [fixedBytes]byte
	if _, err := io.ReadFull(r, fixed[:]); err != nil {
		return frame{}, err
	}
	f, s, err := parseFixed(&fixed, handshakeBounds)
	if err != nil {
		return f, err
	}
	meta := make([]byte, s.meta())
	if _, err := io.ReadFull(r, meta); err != nil {
		return f, insideFrame(err)
	}
	return f, f.parseMeta(meta, s)
}

// insideFrame names an end of the stream for what it is.
func insideFrame(err error) error {
	if errors.Is(err, io.EOF) {
		return io.ErrUnexpectedEOF
	}
	return err
}

// piece is how much of a body is checksummed and moved at a time: it stays in
// the cache between the two, and one end's work overlaps the other's.
const piece = 256 << 10
