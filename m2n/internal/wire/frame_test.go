package wire

import (
	"bytes"
	"encoding/binary"
	"errors"
	"hash/crc32"
	"io"
	"math/rand/v2"
	"runtime"
	"testing"

	"github.com/stretchr/testify/require"
)

// encode writes a whole frame the obvious way.
func encode(f Frame, body []byte) []byte {
	out := append(AppendFrame(nil, &f), body...)
	if f.hasTrailer() {
		out = binary.LittleEndian.AppendUint32(out, crc32.Checksum(body, crc32.MakeTable(crc32.Castagnoli)))
	}
	return out
}

// oneFrame is a Sink that keeps a frame and its body.
type oneFrame struct {
	frame Frame
	body  []byte
	whole bool
}

func (o *oneFrame) BodyMemory(f *Frame) ([]byte, error) {
	o.body = make([]byte, f.Body)
	return o.body, nil
}

func (o *oneFrame) FrameComplete(f *Frame) error {
	o.frame, o.whole = *f, true
	return nil
}

// decode reads a whole frame, byte by byte.
func decode(r io.Reader, lim Bounds) (Frame, []byte, error) {
	var o oneFrame
	a := NewAssembler(lim, &o)
	for !o.whole {
		want, after := a.Space()
		if len(want) == 0 {
			want = after
		}
		n, err := r.Read(want[:1])
		if n > 0 {
			err = a.Advance(n)
		}
		switch {
		case errors.Is(err, io.EOF) && a.AtBoundary():
			return o.frame, nil, io.EOF
		case err != nil:
			return a.frame, nil, UnexpectedEOF(err)
		}
	}
	return o.frame, o.body, nil
}

var testBounds = Bounds{Header: 100, Spans: 4, Body: 1000}

func sampleFrame() (Frame, []byte) {
	return Frame{
		Kind: Data, Flags: FlagBodySum, Epoch: 7, Seq: 9, Number: 8, Credits: 3,
		Body: 5, Lengths: []int{2, 0, 3}, Header: []byte("header"),
	}, []byte("hello")
}

func TestFrameRoundTrip(t *testing.T) {
	f, body := sampleFrame()
	got, gotBody, err := decode(bytes.NewReader(encode(f, body)), testBounds)
	require.NoError(t, err)
	require.Equal(t, f, got)
	require.Equal(t, body, gotBody)
}

// TestFrameNoticesEveryFlippedBit: none passes unseen.
func TestFrameNoticesEveryFlippedBit(t *testing.T) {
	good := encode(sampleFrame())
	for bit := range 8 * len(good) {
		bad := bytes.Clone(good)
		bad[bit/8] ^= 1 << (bit % 8)
		_, _, err := decode(bytes.NewReader(bad), testBounds)
		require.ErrorIs(t, err, ErrBadFrame, "bit %d", bit)
	}
}

func TestFrameTruncated(t *testing.T) {
	good := encode(sampleFrame())
	for n := range good {
		_, _, err := decode(bytes.NewReader(good[:n]), testBounds)
		if n == 0 {
			require.ErrorIs(t, err, io.EOF)
		} else {
			require.ErrorIs(t, err, io.ErrUnexpectedEOF, "%d bytes", n)
		}
	}
}

func TestFrameErrorsNameBothValues(t *testing.T) {
	f, body := sampleFrame()
	for _, tc := range []struct {
		name   string
		change func(*Frame, *Bounds)
		want   string
	}{
		{"header", func(_ *Frame, b *Bounds) { b.Header = 5 }, "it announces 6 bytes of header, the limit is 5"},
		{"spans", func(_ *Frame, b *Bounds) { b.Spans = 2 }, "it announces 3 spans, the limit is 2"},
		{"body", func(_ *Frame, b *Bounds) { b.Body = 4 }, "it announces 5 bytes of body, the limit is 4"},
		{"sum of the spans", func(f *Frame, _ *Bounds) { f.Lengths[0] = 3 }, "the spans have 6 bytes, the body 5"},
		{"type", func(f *Frame, _ *Bounds) { f.Kind = 99 }, "type 99"},
		{"flags", func(f *Frame, _ *Bounds) { f.Flags = 2 }, "flags 0x2"},
	} {
		t.Run(tc.name, func(t *testing.T) {
			f, lim := f, testBounds
			f.Lengths = append([]int(nil), f.Lengths...)
			tc.change(&f, &lim)
			_, _, err := decode(bytes.NewReader(encode(f, body)), lim)
			require.ErrorIs(t, err, ErrBadFrame)
			require.ErrorContains(t, err, tc.want)
		})
	}
}

func TestFrameOfAnotherVersion(t *testing.T) {
	b := encode(sampleFrame())
	b[4] = 9
	_, _, err := decode(bytes.NewReader(b), testBounds)
	require.ErrorContains(t, err, "protocol version 9, this end speaks 2")
}

// discarder is a Sink that has little memory, and counts frames.
type discarder struct {
	memory []byte
	whole  int
}

func (d *discarder) BodyMemory(*Frame) ([]byte, error) { return d.memory, nil }

func (d *discarder) FrameComplete(*Frame) error {
	d.whole++
	return nil
}

// TestBodyThatIsNotWanted: a body longer than its memory is read past, however it is cut
// into reads, its checksum is checked, and the frame after it is found.
func TestBodyThatIsNotWanted(t *testing.T) {
	for _, body := range []int{1, 6, 7, 8, 14, 999, 1000} {
		f := Frame{Kind: Data, Flags: FlagBodySum, Seq: 1, Body: body, Lengths: []int{body}}
		good := encode(f, bytes.Repeat([]byte("x"), body))
		stream := append(bytes.Clone(good), good...)
		for cut := range 40 {
			d := discarder{memory: make([]byte, 7)}
			require.NoError(t, feedAll(NewAssembler(testBounds, &d), stream, func() int { return cut + 1 }))
			require.Equal(t, 2, d.whole)
		}
		d := discarder{memory: make([]byte, 7)}
		a := NewAssembler(testBounds, &d)
		head := len(AppendFrame(nil, &f))
		require.NoError(t, feedAll(a, good[:head], func() int { return head }))
		require.Equal(t, Position{Part: PartBody, Seq: 1, Missing: body, Of: body}, a.Position())
		require.Equal(t, body, a.Missing())
		good[head] ^= 1
		require.ErrorIs(t, feedAll(a, good[head:], func() int { return len(good) }), ErrBadFrame)
	}
}

// feedAll puts bytes into an assembler's space, size at a time or as much as there is
// room for.
func feedAll(a *Assembler, in []byte, size func() int) error {
	for len(in) > 0 {
		want, after := a.Space()
		n := min(max(1, size()), len(in), len(want)+len(after))
		k := copy(want, in[:n])
		copy(after, in[k:n])
		if err := a.Advance(n); err != nil {
			return err
		}
		in = in[n:]
	}
	return nil
}

// frames is a Sink that keeps all frames, encoded again.
type frames struct {
	encoded [][]byte
	body    []byte
}

func (s *frames) BodyMemory(f *Frame) ([]byte, error) {
	s.body = make([]byte, f.Body)
	return s.body, nil
}

func (s *frames) FrameComplete(f *Frame) error {
	s.encoded = append(s.encoded, encode(*f, s.body))
	return nil
}

// assemble puts bytes into an assembler's space as readv does, size at a time or as
// much as there is room for.
func assemble(in []byte, size func() int) ([][]byte, error) {
	var s frames
	a := NewAssembler(testBounds, &s)
	err := feedAll(a, in, size)
	return s.encoded, err
}

// FuzzFrame: what is accepted encodes to the same bytes, however it is cut into
// reads, and what is announced allocates no more than the bounds.
func FuzzFrame(f *testing.F) {
	good := encode(sampleFrame())
	f.Add(good)
	f.Add(good[:FixedBytes])
	f.Add(good[:len(good)-1])
	f.Add(encode(Frame{Kind: KeepAlive, Credits: 1}, nil))
	f.Add(encode(Frame{Kind: Data, Lengths: []int{0}}, nil))
	huge := Frame{Kind: Data, Body: 1 << 40}
	f.Add(encode(huge, nil))
	f.Add(append(append(bytes.Clone(good), good...), encode(Frame{Kind: KeepAlive, Credits: 1}, nil)...))
	f.Fuzz(func(t *testing.T, in []byte) {
		r := bytes.NewReader(in)
		var before, after runtime.MemStats
		runtime.ReadMemStats(&before)
		got, body, err := decode(r, testBounds)
		runtime.ReadMemStats(&after)
		require.Less(t, after.TotalAlloc-before.TotalAlloc, uint64(64<<10))
		if err == nil {
			require.Equal(t, in[:len(in)-r.Len()], encode(got, body))
		}
		cuts := rand.New(rand.NewPCG(uint64(crc32.ChecksumIEEE(in)), 0))
		whole, failed := assemble(in, func() int { return len(in) })
		single, once := assemble(in, func() int { return 1 })
		random, again := assemble(in, func() int { return cuts.IntN(100) })
		require.Equal(t, single, whole)
		require.Equal(t, single, random)
		require.Equal(t, once, failed)
		require.Equal(t, once, again)
		require.True(t, bytes.HasPrefix(in, bytes.Join(whole, nil)))
	})
}
