package kernel

import (
	"encoding/binary"
	"math"
	"math/rand/v2"
	"testing"

	"github.com/stretchr/testify/require"
)

func TestSizesOfBlocks(t *testing.T) {
	for _, c := range []struct {
		t               DType
		elements, bytes int
	}{{F32, 5, 20}, {F16, 5, 10}, {BF16, 5, 10}, {I32, 3, 12}, {F8E4M3, 5, 5}, {F4E2M1, 6, 3}, {E8M0, 5, 5}, {Q8, 64, 68}} {
		require.Equal(t, c.bytes, c.t.Bytes(c.elements), c.t)
		n, ok := c.t.Elements(c.bytes)
		require.True(t, ok)
		require.Equal(t, c.elements, n, c.t)
	}
	require.PanicsWithValue(t, "kernel: 33 elements of q8 are no whole number of blocks of 32", func() { Q8.Bytes(33) })
	require.PanicsWithValue(t, "kernel: the size of a DType(99), which is no element type", func() { DType(99).Bytes(1) })
	_, ok := Q8.Elements(35)
	require.False(t, ok)
	_, ok = DType(99).Elements(4)
	require.False(t, ok)
}

// TestSmallFloatsKnowTheirLandmarks checks elements with the tables of OCP's FP8 and
// MX specifications.
func TestSmallFloatsKnowTheirLandmarks(t *testing.T) {
	for bits, want := range map[byte]float64{
		0x00: 0, 0x01: 1.0 / 512, 0x07: 7.0 / 512, 0x08: 1.0 / 64, 0x38: 1, 0xb8: -1, 0x7e: 448, 0xfe: -448, 0x3f: 1.875,
	} {
		require.Equal(t, want, float64(widenE4M3(bits)), "%#02x", bits)
	}
	require.True(t, math.Signbit(float64(widenE4M3(0x80))), "-0")
	for _, nan := range []byte{0x7f, 0xff} {
		require.True(t, math.IsNaN(float64(widenE4M3(nan))))
	}
	for bits, want := range []float32{0, 0.5, 1, 1.5, 2, 3, 4, 6} {
		require.Equal(t, want, widenE2M1(byte(bits)))
		require.Equal(t, -want, widenE2M1(byte(bits)|8))
	}
	for _, b := range []byte{0, 1, 100, 127, 128, 254} {
		require.Equal(t, math.Ldexp(1, int(b)-127), float64(widenE8M0(b)), "%d", b)
	}
	require.True(t, math.IsNaN(float64(widenE8M0(255))))
}

// scaledCase is a matrix of small elements and what it stands for, element by element.
type scaledCase struct {
	m    HostMatrix
	want []float64
}

func randomBytes(r *rand.Rand, n int) []byte {
	b := make([]byte, n)
	for i := range b {
		b[i] = byte(r.IntN(256))
	}
	return b
}

// randomScaled draws a matrix of a type, with scales in tiles or without.
func randomScaled(r *rand.Rand, d DType, out, in int) scaledCase {
	m := HostMatrix{DType: d, Out: out, In: in, Data: randomBytes(r, d.Bytes(out*in))}
	if d == Q8 { // scales must be numbers
		for at := 0; at < len(m.Data); at += 34 {
			binary.LittleEndian.PutUint16(m.Data[at:], truncateF16(math.Float32bits(r.Float32())))
		}
	}
	if r.IntN(3) > 0 {
		s := &Scales{DType: F32, Rows: 1 + r.IntN(5), Cols: 1 + r.IntN(40)}
		tiles := ceilDiv(out, s.Rows) * ceilDiv(in, s.Cols)
		s.Data = narrow(F32, randomFloats(r, tiles, false))
		if r.IntN(2) == 0 {
			s.DType, s.Data = E8M0, make([]byte, tiles)
			for i := range s.Data {
				s.Data[i] = byte(100 + r.IntN(60))
			}
		}
		m.Scales = s
	}
	c := scaledCase{m: m}
	for o := range out {
		for i := range in {
			c.want = append(c.want, c.element(o, i))
		}
	}
	return c
}

// element is the definition, in float64.
func (c *scaledCase) element(o, i int) float64 {
	m, at := &c.m, o*c.m.In+i
	var v float64
	switch m.DType {
	case F8E4M3:
		v = float64(widenE4M3(m.Data[at]))
	case F4E2M1:
		v = float64(widenE2M1(m.Data[at/2] >> (4 * (at % 2))))
	case Q8:
		block := m.Data[at/32*34:]
		v = float64(widenF16(binary.LittleEndian.Uint16(block))) * float64(int8(block[2+at%32]))
	default:
		v = float64(loadElement(m.Data, m.DType, at))
	}
	if s := m.Scales; s != nil {
		tile := o/s.Rows*ceilDiv(m.In, s.Cols) + i/s.Cols
		if s.DType == E8M0 {
			v *= math.Ldexp(1, int(s.Data[tile])-127)
		} else {
			v *= float64(loadElement(s.Data, F32, tile))
		}
	}
	return v
}

// TestPackWidensBlocksAndScales: what is packed is the element times its scale,
// rounded to f32 once, on every path, and beside parts of other types.
func TestPackWidensBlocksAndScales(t *testing.T) {
	r := newRand(t, 51)
	eachDevice(t, func(t *testing.T, dev *CPU) {
		for range 20 {
			in := 32 * (1 + r.IntN(3))
			var parts []HostMatrix
			var want []float32
			for range 1 + r.IntN(2) {
				d := []DType{F8E4M3, F4E2M1, Q8, BF16, F32, F16}[r.IntN(6)]
				c := randomScaled(r, d, 1+r.IntN(40), in)
				parts = append(parts, c.m)
				for _, v := range c.want {
					want = append(want, float32(v))
				}
			}
			w, err := dev.Pack(parts...)
			require.NoError(t, err)
			var got []float32
			for o := range w.Out() {
				for k := range in {
					got = append(got, w.(*weight).element(o, k))
				}
			}
			requireSameBits(t, want, got, w.DType())
		}
	})
}

// TestFourBitsTakeTwoBytes: what BF16 holds exactly is packed as BF16.
func TestFourBitsTakeTwoBytes(t *testing.T) {
	dev := newDevice(t, Portable, 1)
	e8m0, f32 := &Scales{DType: E8M0, Rows: 1, Cols: 32, Data: make([]byte, 1)}, &Scales{DType: F32, Rows: 1, Cols: 32, Data: make([]byte, 4)}
	for _, c := range []struct {
		m    HostMatrix
		want DType
	}{
		{HostMatrix{DType: F4E2M1, Scales: e8m0}, BF16}, {HostMatrix{DType: F4E2M1}, BF16}, {HostMatrix{DType: F8E4M3}, BF16},
		{HostMatrix{DType: F4E2M1, Scales: f32}, F32}, {HostMatrix{DType: F8E4M3, Scales: e8m0}, F32},
		{HostMatrix{DType: BF16, Scales: e8m0}, F32}, {HostMatrix{DType: Q8}, F32},
	} {
		c.m.Out, c.m.In = 1, 32
		c.m.Data = make([]byte, c.m.DType.Bytes(32))
		w, err := dev.Pack(c.m)
		require.NoError(t, err)
		require.Equal(t, c.want, w.DType(), c.m.DType)
	}
}

func TestPackRefusesScalesThatDoNotFit(t *testing.T) {
	dev := newDevice(t, Auto, 1)
	ones := func(s Scales) HostMatrix {
		return HostMatrix{DType: F8E4M3, Out: 3, In: 5, Data: make([]byte, 15), Scales: &s}
	}
	for _, c := range []struct {
		m    HostMatrix
		want string
	}{
		{ones(Scales{DType: F16, Rows: 1, Cols: 5}), "pack: part 0: scales of f16: want f32 or e8m0"},
		{ones(Scales{DType: F32, Cols: 5}), "pack: part 0: scales of tiles of 0 rows and 5 columns"},
		{ones(Scales{DType: F32, Rows: 2, Cols: 3, Data: make([]byte, 15)}), "pack: part 0: scales of [3, 5] in tiles of 2 × 3 have 15 bytes, want 16"},
		{HostMatrix{DType: Q8, Out: 2, In: 33}, "pack: part 0: [2, 33] of q8: want rows of a multiple of 32 elements"},
		{HostMatrix{DType: 99, Out: 1, In: 1}, "pack: part 0: a matrix of DType(99): want f32, f16, bf16, f8e4m3, f4e2m1 or q8"},
		{HostMatrix{DType: E8M0, Out: 1, In: 1, Data: []byte{1}}, "pack: part 0: a matrix of e8m0: want f32, f16, bf16, f8e4m3, f4e2m1 or q8"},
	} {
		_, err := dev.Pack(c.m)
		require.EqualError(t, err, c.want)
	}
}
