// Package wire is m2n's frame format: layout, encoding, parsing, checksums. An
// [Assembler] makes frames of the bytes of a stream, a [Batch] makes a stream of
// frames.
//
// The package does no input or output and knows no peer, socket or clock: its
// callers read and write. It holds every length that a peer announces to the
// receiver's [Bounds] before it allocates memory for that length. Errors that are
// the peer's mistake wrap [ErrBadFrame].
package wire

import (
	"encoding/binary"
	"errors"
	"fmt"
	"io"

	"github.com/tandem-moe/tandem/m2n/crc32c"
)

// A frame on a stream, little-endian:
//
//	 0 magic "M2N\n"    4 version   5 kind    6 flags (2)
//	 8 epoch of the sender (8)     16 sequence number in this direction (8)
//	24 bytes of the header (4)     28 number of spans (4)
//	32 bytes of the body (8)       40 credits given back (4)
//	44 CRC of the meta part (4)    48 number of the message in this direction (8)
//	56 zero (4)                    60 CRC of bytes 0 to 59 (4)
//	64 meta part: the length of each span (4 each), then the header
//	   body
//	   trailer: CRC of the body (4), where the flag says so and there is a body
//
// All checksums are CRC32C. The body's checksum stands behind the body, so that the
// sender can compute it while the body's first bytes are already under way.
const (
	magic        = "M2N\n"
	Version      = 2
	FixedBytes   = 64
	trailerBytes = 4
)

// MaxSpans bounds the spans of one message: 64 Ki rows.
const MaxSpans = 1 << 16

// ControlBytes bounds the headers of all frames but [Data].
const ControlBytes = 4 << 10

// ErrBadFrame is wrapped by every error that says that the peer broke the format.
var ErrBadFrame = errors.New("bad frame")

// Kind tells what a frame is for.
type Kind uint8

// Kinds. A frame of each kind may carry credits.
const (
	Hello     Kind = iota + 1 // handshake: the end that dials introduces itself
	Welcome                   // handshake: the end that listens answers
	Ready                     // handshake: all connections of the pair are there
	Refuse                    // handshake: the connection is not wanted; the header says why
	Data                      // a message
	KeepAlive                 // credits, or nothing but the news that the sender lives
	Goodbye                   // the sender's last frame; the header says why the pair ends
	kinds
)

// FlagBodySum says that a trailer with the body's checksum follows the body.
const FlagBodySum = 1

// Frame is a frame without its body.
type Frame struct {
	Kind    Kind
	Flags   uint16
	Epoch   uint64 // of the sender
	Seq     uint64 // of the frame on its connection, from 1
	Number  uint64 // of the message, over all connections of the pair, from 1
	Credits uint32 // that the sender gives back
	Body    int    // bytes of the body
	Lengths []int  // of the spans; their sum is Body
	Header  []byte
}

// Bounds are what a receiver accepts of one frame.
type Bounds struct {
	Header int // bytes
	Spans  int
	Body   int // bytes
}

// controlBounds are those of frames without a body.
var controlBounds = Bounds{Header: ControlBytes}

// VersionError says that a frame is of another protocol version.
type VersionError struct{ got byte }

// Error names both versions.
func (e *VersionError) Error() string {
	return fmt.Sprintf("protocol version %d, this end speaks %d", e.got, Version)
}

// Unwrap returns [ErrBadFrame].
func (e *VersionError) Unwrap() error { return ErrBadFrame }

// Sizes are the lengths that the fixed part of a frame announces.
type Sizes struct {
	Header, Spans, Body int
	metaSum             uint32
}

// meta is the length of the meta part in bytes.
func (s Sizes) meta() int { return 4*s.Spans + s.Header }

// parseFixed reads the fixed part.
func parseFixed(b *[FixedBytes]byte, lim Bounds) (Frame, Sizes, error) {
	le := binary.LittleEndian
	if string(b[:4]) != magic {
		return Frame{}, Sizes{}, fmt.Errorf("%w: it begins with %q", ErrBadFrame, b[:4])
	}
	if b[4] != Version {
		return Frame{}, Sizes{}, &VersionError{b[4]}
	}
	if sum, want := crc32c.Update(0, b[:60]), le.Uint32(b[60:]); sum != want {
		return Frame{}, Sizes{}, fmt.Errorf("%w: the checksum of the fixed part is %08x, announced %08x", ErrBadFrame, sum, want)
	}
	f := Frame{Kind: Kind(b[5]), Flags: le.Uint16(b[6:]), Epoch: le.Uint64(b[8:]), Seq: le.Uint64(b[16:]), Number: le.Uint64(b[48:]), Credits: le.Uint32(b[40:])}
	if f.Kind == 0 || f.Kind >= kinds || f.Flags&^FlagBodySum != 0 || le.Uint32(b[56:]) != 0 {
		return Frame{}, Sizes{}, fmt.Errorf("%w: type %d, flags %#x", ErrBadFrame, f.Kind, f.Flags)
	}
	if f.Kind != Data {
		lim = controlBounds
	}
	s, err := lim.Check(uint64(le.Uint32(b[24:])), uint64(le.Uint32(b[28:])), le.Uint64(b[32:]))
	s.metaSum = le.Uint32(b[44:])
	f.Body = s.Body
	return f, s, err
}

// Check holds announced lengths to the bounds.
func (lim Bounds) Check(header, spans, body uint64) (Sizes, error) {
	for _, part := range []struct {
		name  string
		n     uint64
		limit int
	}{{"bytes of header", header, lim.Header}, {"spans", spans, lim.Spans}, {"bytes of body", body, lim.Body}} {
		if part.n > uint64(part.limit) {
			return Sizes{}, fmt.Errorf("%w: it announces %d %s, the limit is %d", ErrBadFrame, part.n, part.name, part.limit)
		}
	}
	return Sizes{Header: int(header), Spans: int(spans), Body: int(body)}, nil
}

// parseMeta reads the meta part into f.
func (f *Frame) parseMeta(meta []byte, s Sizes) error {
	if sum := crc32c.Update(0, meta); sum != s.metaSum {
		return fmt.Errorf("%w: the checksum of the header is %08x, announced %08x", ErrBadFrame, sum, s.metaSum)
	}
	var err error
	f.Lengths, err = SpanLengths(meta, s.Spans, s.Body)
	f.Header = meta[4*s.Spans:]
	return err
}

// SpanLengths reads the lengths of the spans, which meta begins with. Their sum must
// be body.
func SpanLengths(meta []byte, spans, body int) ([]int, error) {
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

// AppendFrame appends the fixed and the meta part of f to dst. f.Body must be the sum
// of f.Lengths.
func AppendFrame(dst []byte, f *Frame) []byte {
	le := binary.LittleEndian
	start := len(dst)
	dst = append(dst, magic...)
	dst = append(dst, Version, byte(f.Kind))
	dst = le.AppendUint16(dst, f.Flags)
	dst = le.AppendUint64(dst, f.Epoch)
	dst = le.AppendUint64(dst, f.Seq)
	dst = le.AppendUint32(dst, uint32(len(f.Header)))
	dst = le.AppendUint32(dst, uint32(len(f.Lengths)))
	dst = le.AppendUint64(dst, uint64(f.Body))
	dst = le.AppendUint32(dst, f.Credits)
	dst = le.AppendUint32(dst, 0) // the meta part's checksum, below
	dst = le.AppendUint64(dst, f.Number)
	dst = append(dst, make([]byte, FixedBytes-56)...)
	for _, n := range f.Lengths {
		dst = le.AppendUint32(dst, uint32(n))
	}
	dst = append(dst, f.Header...)
	le.PutUint32(dst[start+44:], crc32c.Update(0, dst[start+FixedBytes:]))
	le.PutUint32(dst[start+60:], crc32c.Update(0, dst[start:start+60]))
	return dst
}

// hasTrailer reports whether a checksum follows the body.
func (f *Frame) hasTrailer() bool { return f.Flags&FlagBodySum != 0 && f.Body > 0 }

// ReadControl reads one frame without a body, and not a byte more: the frames of a
// handshake are read so, before the ends know each other. io.EOF means that the
// stream ended before the frame.
func ReadControl(r io.Reader) (Frame, error) {
	var fixed [FixedBytes]byte
	if _, err := io.ReadFull(r, fixed[:]); err != nil {
		return Frame{}, err
	}
	f, s, err := parseFixed(&fixed, controlBounds)
	if err != nil {
		return f, err
	}
	meta := make([]byte, s.meta())
	if _, err := io.ReadFull(r, meta); err != nil {
		return f, UnexpectedEOF(err)
	}
	return f, f.parseMeta(meta, s)
}

// ParseMessage reads a message whose body, of so many bytes, has come separately from
// the fixed and the meta part, as by a fabric.
func ParseMessage(head []byte, body int, lim Bounds) (Frame, error) {
	if len(head) < FixedBytes {
		return Frame{}, fmt.Errorf("%w: it has %d bytes before the body, a frame %d", ErrBadFrame, len(head), FixedBytes)
	}
	f, s, err := parseFixed((*[FixedBytes]byte)(head), lim)
	if err != nil {
		return f, err
	}
	meta := head[FixedBytes:]
	switch {
	case f.Kind != Data:
		return f, fmt.Errorf("%w: type %d outside of the lane", ErrBadFrame, f.Kind)
	case len(meta) != s.meta() || body != s.Body:
		return f, fmt.Errorf("%w: it has %d bytes of lengths and header and %d of body, announced %d and %d",
			ErrBadFrame, len(meta), body, s.meta(), s.Body)
	}
	return f, f.parseMeta(meta, s)
}

// UnexpectedEOF turns io.EOF into io.ErrUnexpectedEOF, for a stream that ends where
// more bytes must follow.
func UnexpectedEOF(err error) error {
	if errors.Is(err, io.EOF) {
		return io.ErrUnexpectedEOF
	}
	return err
}

// Piece is how many bytes of a body are checksummed and moved at a time. They are
// still in the cache when they are moved, and the receiver can work on one piece
// while the sender works on the next.
const Piece = 256 << 10
