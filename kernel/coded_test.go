package kernel

import (
	"encoding/binary"
	"fmt"
	"math"
	"math/rand/v2"
	"testing"

	"github.com/stretchr/testify/require"
)

var rowFormats = []RowFormat{RowF32, RowBF16, RowInt8}

// encodeSlow is a row's bytes by the definition, in float64.
func encodeSlow(f RowFormat, row []float32) (b []byte) {
	switch f {
	case RowF32:
		for _, v := range row {
			b = binary.LittleEndian.AppendUint32(b, math.Float32bits(v))
		}
	case RowBF16:
		for _, v := range row {
			b = binary.LittleEndian.AppendUint16(b, bf16Slow(v))
		}
	case RowInt8:
		b = int8Slow(row)
	}
	for len(b)%4 != 0 {
		b = append(b, 0)
	}
	return b
}

// bf16Slow takes the nearer of the two bfloat16 around a value; of two as near
// the even one. Infinity counts as the number that would follow the largest.
func bf16Slow(v float32) uint16 {
	low := uint16(math.Float32bits(v) >> 16) // towards zero
	switch {
	case v != v:
		return 0x7fc0
	case math.IsInf(float64(v), 0):
		return low
	}
	value := func(h uint16) float64 {
		if h&0x7fff == 0x7f80 {
			return math.Copysign(0x1p128, float64(v))
		}
		return float64(math.Float32frombits(uint32(h) << 16))
	}
	down, up := math.Abs(float64(v)-value(low)), math.Abs(float64(v)-value(low+1))
	if down < up || down == up && low%2 == 0 {
		return low
	}
	return low + 1
}

// int8Slow is the definition of RowInt8.
func int8Slow(row []float32) []byte {
	m, finite := float32(0), true
	for _, v := range row {
		m = max(m, float32(math.Abs(float64(v))))
		finite = finite && !math.IsInf(float64(v), 0) && v == v
	}
	scale, integers := m/127, make([]byte, len(row))
	switch {
	case !finite:
		scale = float32(math.NaN())
	case scale < 0x1p-126:
		scale = 0
	default:
		for i, v := range row {
			integers[i] = byte(int8(math.RoundToEven(float64(v * (127 / m)))))
		}
	}
	return append(binary.LittleEndian.AppendUint32(nil, math.Float32bits(scale)), integers...)
}

// decodeSlow is a row by the definition.
func decodeSlow(f RowFormat, b []byte, n int) []float32 {
	row := make([]float32, n)
	for i := range row {
		switch f {
		case RowF32:
			row[i] = math.Float32frombits(binary.LittleEndian.Uint32(b[4*i:]))
		case RowBF16:
			row[i] = math.Float32frombits(uint32(binary.LittleEndian.Uint16(b[2*i:])) << 16)
		case RowInt8:
			row[i] = float32(int8(b[4+i])) * math.Float32frombits(binary.LittleEndian.Uint32(b))
		}
	}
	return row
}

// interestingRows are rows of every kind that a format treats in its own way.
func interestingRows(r *rand.Rand, rows, cols int) []float32 {
	all := randomFloats(r, rows*cols, false)
	for i := range rows {
		row := all[i*cols : (i+1)*cols]
		switch r.IntN(8) {
		case 0:
			clear(row)
		case 1:
			copy(row, randomFloats(r, cols, true))
		case 2: // so small that a scale is below the smallest normal number, or just not
			for j := range row {
				row[j] = math.Float32frombits(uint32(r.IntN(0x05000000)) | r.Uint32()&(1<<31))
			}
		case 3: // any finite numbers
			for j := range row {
				row[j] = math.Float32frombits(r.Uint32() % infinityBits)
			}
		case 4: // halves of what is next to it, in both formats
			for j := range row {
				row[j] = math.Float32frombits(uint32(0x3f80+r.IntN(0x80))<<16 | 0x8000)
			}
		case 5: // integers and their halves
			for j := range row {
				row[j] = float32(r.IntN(509)-254) / 2
			}
			row[0] = 127
		}
	}
	return all
}

// TestCodedRowsEqualTheDefinition encodes and decodes random rows on each
// device.
func TestCodedRowsEqualTheDefinition(t *testing.T) {
	eachDevice(t, func(t *testing.T, dev *CPU) {
		r := newRand(t, 21)
		for range 60 {
			rows, cols := 1+r.IntN(40), 1+r.IntN(100)
			if r.IntN(8) == 0 {
				cols += 2000
			}
			for _, f := range rowFormats {
				checkCoded(t, dev, r, f, rows, cols, interestingRows(r, rows, cols))
			}
		}
	})
}

// checkCoded takes rows through a format, some of them several times, and in
// another order back.
func checkCoded(t *testing.T, dev *CPU, r *rand.Rand, f RowFormat, rows, cols int, in []float32) {
	t.Helper()
	list, places := make([]int32, rows), make([]int32, rows)
	for i, p := range r.Perm(rows) {
		list[i], places[i] = int32(r.IntN(rows)), int32(p)
	}
	coded := newCoded(t, dev, f, rows, cols)
	dev.EncodeRows(coded, upload(t, dev, rows, cols, in), list)
	out := upload(t, dev, rows, cols, make([]float32, rows*cols))
	dev.DecodeRows(out, places, coded, list)
	size := f.Bytes(cols)
	got := coded.Buf.Bytes()[coded.Off:]
	for i, from := range list {
		want := encodeSlow(f, in[int(from)*cols:(int(from)+1)*cols])
		require.Len(t, want, size)
		requireSameRow(t, f, want, got[i*size:(i+1)*size], cols)
	}
	back := download(out)
	for i, from := range list {
		want := decodeSlow(f, got[int(from)*size:], cols)
		at := int(places[i]) * cols
		requireSameBits(t, want, back[at:at+cols], f)
	}
}

// newCoded is room for rows, dirty, somewhere in a buffer.
func newCoded(t *testing.T, dev *CPU, f RowFormat, rows, cols int) CodedMat {
	const before = 12
	b, err := dev.Alloc(DeviceMemory, F32, (before+rows*f.Bytes(cols))/4)
	require.NoError(t, err)
	for i := range b.Bytes() {
		b.Bytes()[i] = 0xa5
	}
	m := CodedMatOf(b, f, rows, cols)
	m.Off = before
	return m
}

// requireSameRow compares a row's bytes; all NaNs are one.
func requireSameRow(t *testing.T, f RowFormat, want, got []byte, cols int) {
	t.Helper()
	if f == RowInt8 {
		requireSameBits(t, decodeSlow(RowF32, want, 1), decodeSlow(RowF32, got, 1), "scale")
		require.Equal(t, want[4:], got[4:])
		return
	}
	requireSameBits(t, decodeSlow(f, want, cols), decodeSlow(f, got, cols), f)
	used := map[RowFormat]int{RowF32: 4, RowBF16: 2}[f] * cols
	require.Equal(t, want[used:], got[used:], "bytes behind the row")
}

// TestCodedRowsAreNear: what a row loses is bounded by its format.
func TestCodedRowsAreNear(t *testing.T) {
	dev, r := newDevice(t, Auto, 1), newRand(t, 22)
	for range 200 {
		cols := 1 + r.IntN(200)
		in := randomFloats(r, cols, false)
		largest := float64(math.Float32frombits(maxBitsPortable(in)))
		for _, f := range rowFormats {
			coded := newCoded(t, dev, f, 1, cols)
			dev.EncodeRows(coded, upload(t, dev, 1, cols, in), nil)
			out := upload(t, dev, 1, cols, make([]float32, cols))
			dev.DecodeRows(out, nil, coded, nil)
			for i, v := range download(out) {
				bound := 0.0
				switch f {
				case RowBF16:
					bound = math.Abs(float64(in[i])) / 256
				case RowInt8:
					bound = largest / 127 * 0.50001
				}
				require.LessOrEqual(t, math.Abs(float64(in[i])-float64(v)), bound, "%v: %v became %v", f, in[i], v)
			}
		}
	}
}

// TestInt8ShowsWhatIsNotFinite: no element of such a row looks like a result,
// and no other row suffers.
func TestInt8ShowsWhatIsNotFinite(t *testing.T) {
	eachISA(t, func(t *testing.T, isa ISA) {
		dev := newDevice(t, isa, 1)
		const rows, cols = 4, 37
		for _, bad := range []float64{math.NaN(), math.Inf(1), math.Inf(-1)} {
			for at := range cols {
				in := randomFloats(newRand(t, 23), rows*cols, false)
				in[cols+at] = float32(bad)
				coded := newCoded(t, dev, RowInt8, rows, cols)
				dev.EncodeRows(coded, upload(t, dev, rows, cols, in), nil)
				out := upload(t, dev, rows, cols, make([]float32, rows*cols))
				dev.DecodeRows(out, nil, coded, nil)
				for i, v := range download(out) {
					require.Equal(t, i/cols == 1, v != v, "element %d with %v at %d", i, bad, at)
				}
			}
		}
	})
}

func TestRowFormatBytes(t *testing.T) {
	for _, c := range []struct {
		f    RowFormat
		n    int
		want int
	}{
		{RowF32, 1, 4}, {RowF32, 2048, 8192}, {RowBF16, 1, 4}, {RowBF16, 2, 4}, {RowBF16, 2048, 4096},
		{RowInt8, 1, 8}, {RowInt8, 4, 8}, {RowInt8, 5, 12}, {RowInt8, 2048, 2052}, {RowInt8, 0, 4},
	} {
		require.Equal(t, c.want, c.f.Bytes(c.n), "%v of %d", c.f, c.n)
	}
}

func TestCodedRowsPanicOnShapesThatDisagree(t *testing.T) {
	dev := newDevice(t, Auto, 1)
	b, err := dev.Alloc(DeviceMemory, F32, 10)
	require.NoError(t, err)
	m, coded := MatOf(b, 2, 3), CodedMatOf(b, RowInt8, 2, 3)
	require.PanicsWithValue(t, "kernel: encode rows: rows of src 1, want 2", func() { dev.EncodeRows(coded, m, []int32{0}) })
	require.PanicsWithValue(t, "kernel: decode rows: columns of src 3, want 2", func() { dev.DecodeRows(m.ColRange(0, 2), nil, coded, nil) })
	coded.Off = 28
	require.PanicsWithValue(t, "kernel: a view of 2 rows of 3 columns in int8 at byte 28: the buffer has 40 bytes", func() {
		dev.EncodeRows(coded, m, nil)
	})
}

// TestGoldenBitsOfCodedRows: what another machine put on the wire.
func TestGoldenBitsOfCodedRows(t *testing.T) {
	r := newRand(t, 24)
	const rows, cols = 24, 150
	in := interestingRows(r, rows, cols)
	var cases []goldenCase
	for _, f := range rowFormats[1:] {
		cases = append(cases, goldenCase{"there and back, " + f.String(), func(t *testing.T, dev *CPU) []float32 {
			coded := newCoded(t, dev, f, rows, cols)
			dev.EncodeRows(coded, upload(t, dev, rows, cols, in), nil)
			out := upload(t, dev, rows, cols, make([]float32, rows*cols))
			dev.DecodeRows(out, nil, coded, nil)
			return download(out)
		}})
	}
	goldenBits(t, "coded.txt", cases)
}

// BenchmarkCodedRows counts the bytes of the float32 side; rows are those of a
// message that fits the second-level cache.
func BenchmarkCodedRows(b *testing.B) {
	const rows, cols = 32, 2048
	for _, isa := range Available() {
		dev := newDevice(b, isa, 1)
		r := newRand(b, 25)
		m, err := dev.Alloc(DeviceMemory, F32, rows*cols)
		require.NoError(b, err)
		copy(f32s(m), randomFloats(r, rows*cols, false))
		for _, f := range rowFormats {
			buf, err := dev.Alloc(DeviceMemory, F32, rows*f.Bytes(cols)/4)
			require.NoError(b, err)
			coded, plain := CodedMatOf(buf, f, rows, cols), MatOf(m, rows, cols)
			for name, run := range map[string]func(){
				"encode": func() { dev.EncodeRows(coded, plain, nil) },
				"decode": func() { dev.DecodeRows(plain, nil, coded, nil) },
			} {
				b.Run(fmt.Sprintf("%v/%v/%s", isa, f, name), func(b *testing.B) {
					b.SetBytes(rows * cols * 4)
					for b.Loop() {
						run()
					}
				})
			}
		}
	}
}
