package kernel

import (
	"encoding/binary"
	"fmt"
	"math"
	"math/rand/v2"
	"testing"

	"github.com/stretchr/testify/require"
	"go.uber.org/goleak"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// threadCounts are drawn on by tests: one, as many as small machines have, and
// more than most tests' work can be cut into.
var threadCounts = []int{1, 2, 5}

// eachISA runs a test for every instruction set, and skips those that the
// machine lacks.
func eachISA(t *testing.T, test func(t *testing.T, isa ISA)) {
	for _, isa := range []ISA{Portable, AVX2, AVX512} {
		t.Run(isa.String(), func(t *testing.T) {
			if _, err := isa.resolve(); err != nil {
				t.Skip(err)
			}
			test(t, isa)
		})
	}
}

// eachDevice runs a test for every instruction set and several thread counts.
func eachDevice(t *testing.T, test func(t *testing.T, c *CPU)) {
	eachISA(t, func(t *testing.T, isa ISA) {
		for _, threads := range threadCounts {
			t.Run(fmt.Sprint(threads), func(t *testing.T) { test(t, newDevice(t, isa, threads)) })
		}
	})
}

// newDevice is a device that the test's end closes.
func newDevice(t testing.TB, isa ISA, threads int) *CPU {
	t.Helper()
	c, err := NewCPU(CPUOptions{ISA: isa, Threads: threads})
	require.NoError(t, err)
	t.Cleanup(func() { require.NoError(t, c.Close()) })
	return c
}

// newRand is a generator that prints its seed when the test fails.
func newRand(t testing.TB, seed uint64) *rand.Rand {
	t.Cleanup(func() {
		if t.Failed() {
			t.Logf("seed %d", seed)
		}
	})
	return rand.New(rand.NewPCG(seed, 0))
}

// randomFloats are n values of magnitudes around 1, the same on every machine
// (a normal distribution would need logarithms); with specials, some are
// infinite, NaN, denormal, huge or zeros of either sign.
func randomFloats(r *rand.Rand, n int, specials bool) []float32 {
	f := make([]float32, n)
	for i := range f {
		scale := float32(uint32(1) << r.IntN(4))
		f[i] = float32(r.Int32N(1<<24)-1<<23) / (1 << 22) / scale
		if specials && r.IntN(64) == 0 {
			f[i] = special(r)
		}
	}
	return f
}

func special(r *rand.Rand) float32 {
	inf := float32(math.Inf(1))
	values := []float32{
		0, float32(math.Copysign(0, -1)), inf, -inf, float32(math.NaN()),
		math.Float32frombits(1), -math.Float32frombits(0x007fffff), 1e-30, -1e-38, 3e38,
	}
	return values[r.IntN(len(values))]
}

// narrow encodes values as a checkpoint does, cutting off what does not fit.
func narrow(t DType, f []float32) []byte {
	b := make([]byte, t.Bytes(len(f)))
	for i, v := range f {
		bits := math.Float32bits(v)
		switch t {
		case F32:
			binary.LittleEndian.PutUint32(b[4*i:], bits)
		case BF16:
			binary.LittleEndian.PutUint16(b[2*i:], uint16(bits>>16))
		case F16:
			binary.LittleEndian.PutUint16(b[2*i:], truncateF16(bits))
		}
	}
	return b
}

// truncateF16 is a float32 cut off to a half; what is too large becomes the
// largest.
func truncateF16(bits uint32) uint16 {
	sign, exponent, fraction := uint16(bits>>16&0x8000), int(bits>>23&0xff)-127, bits>>13&0x3ff
	switch {
	case exponent == 128:
		return sign | 0x7c00 | uint16(fraction)
	case exponent > 15:
		return sign | 0x7bff
	case exponent < -14:
		return sign | uint16((1<<23|bits&0x7fffff)>>min(-1-exponent, 31))
	}
	return sign | uint16(exponent+15)<<10 | uint16(fraction)
}

// hostMatrix encodes a matrix [out, in].
func hostMatrix(t DType, out, in int, f []float32) HostMatrix {
	return HostMatrix{DType: t, Out: out, In: in, Data: narrow(t, f)}
}

// upload is a dense matrix on the device with a little room between its rows
// and before the first, so that offsets and strides matter.
func upload(t testing.TB, c *CPU, rows, cols int, f []float32) Mat {
	t.Helper()
	const before, between = 3, 5
	stride := cols + between
	b, err := c.Alloc(DeviceMemory, F32, before+rows*stride)
	require.NoError(t, err)
	m := Mat{Buf: b, Off: before, Rows: rows, Cols: cols, Stride: stride}
	for r := range rows {
		copy(view(m).row(r), f[r*cols:])
	}
	return m
}

// download is a matrix's elements, densely.
func download(m Mat) (f []float32) {
	v := view(m)
	for r := range v.rows {
		f = append(f, v.row(r)...)
	}
	return f
}

// requireSameBits compares bit for bit. A NaN equals any other: which of two
// NaNs survives an operation is the processor's choice.
func requireSameBits(t testing.TB, want, got []float32, context ...any) {
	t.Helper()
	require.Len(t, got, len(want), context...)
	for i := range want {
		if want[i] != want[i] && got[i] != got[i] {
			continue
		}
		if math.Float32bits(want[i]) != math.Float32bits(got[i]) {
			require.Failf(t, "bits differ", "element %d: want %g (%#08x), got %g (%#08x): %s",
				i, want[i], math.Float32bits(want[i]), got[i], math.Float32bits(got[i]), fmt.Sprint(context...))
		}
	}
}
