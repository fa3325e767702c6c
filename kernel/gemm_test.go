package kernel

import (
	"fmt"
	"math/rand/v2"
	"testing"

	"github.com/stretchr/testify/require"
	"github.com/tandem-moe/tandem/kernel/detmath"
	"gonum.org/v1/gonum/blas"
	"gonum.org/v1/gonum/blas/blas32"
)

var weightTypes = []DType{F32, F16, BF16}

// linearCase is one product with what it should give.
type linearCase struct {
	t             DType
	rows, out, in int
	x, w, bias    []float32 // w as the type holds it
	want          []float32
}

// newLinearCase draws a product; shapes small and around the edges of panels,
// blocks and chunks.
func newLinearCase(r *rand.Rand, rows, out, in int, specials bool) linearCase {
	c := linearCase{t: weightTypes[r.IntN(len(weightTypes))], rows: rows, out: out, in: in}
	c.x = randomFloats(r, rows*in, specials)
	c.w = make([]float32, out*in)
	widen(c.w, c.t, narrow(c.t, randomFloats(r, out*in, specials)))
	if r.IntN(2) == 0 {
		c.bias = randomFloats(r, out, false)
	}
	c.want = obviousLinear(c)
	return c
}

// obviousLinear is the contract: a chain per output, then the bias.
func obviousLinear(c linearCase) []float32 {
	y := make([]float32, c.rows*c.out)
	for i := range y {
		x, w := c.x[i/c.out*c.in:], c.w[i%c.out*c.in:]
		for k := range c.in {
			y[i] = detmath.FMA32(x[k], w[k], y[i])
		}
		if c.bias != nil {
			y[i] += c.bias[i%c.out]
		}
	}
	return y
}

func (c linearCase) String() string {
	return fmt.Sprintf("%d rows × [%d, %d] %v, bias %v", c.rows, c.out, c.in, c.t, c.bias != nil)
}

// pack packs the case's weight.
func (c linearCase) pack(t *testing.T, dev *CPU) Weight {
	w, err := dev.Pack(hostMatrix(c.t, c.out, c.in, c.w))
	require.NoError(t, err)
	return w
}

// packBias loads the case's bias, or returns nil.
func (c linearCase) packBias(t *testing.T, dev *CPU) Buffer {
	if c.bias == nil {
		return nil
	}
	bias, err := dev.Vector(F32, narrow(F32, c.bias))
	require.NoError(t, err)
	return bias
}

// run computes it on a device.
func (c linearCase) run(t *testing.T, dev *CPU) []float32 {
	bias := c.packBias(t, dev)
	dst := upload(t, dev, c.rows, c.out, make([]float32, c.rows*c.out))
	dev.Linear(dst, upload(t, dev, c.rows, c.in, c.x), c.pack(t, dev), bias)
	return download(dst)
}

// linearCases covers every count of rows that a kernel is made for, and random
// shapes around the sizes of panels, blocks and chunks.
func linearCases(r *rand.Rand) (cases []linearCase) {
	for rows := 1; rows <= 26; rows++ {
		cases = append(cases, newLinearCase(r, rows, 1+r.IntN(140), 1+r.IntN(300), rows%4 == 0))
	}
	for range 12 {
		cases = append(cases, newLinearCase(r, 1, 1+r.IntN(600), 1+r.IntN(600), false))
	}
	for _, rows := range []int{chunkRows - 1, chunkRows, chunkRows + 1, 2*chunkRows + 7} {
		cases = append(cases, newLinearCase(r, rows, 33, innerBlock+1, true))
	}
	for _, in := range []int{0, 1, innerBlock - 1, innerBlock, 2 * innerBlock} {
		cases = append(cases, newLinearCase(r, 1+r.IntN(5), 64, in, true))
	}
	return append(cases, newLinearCase(r, 0, 5, 5, false), newLinearCase(r, 3, 0, 5, false))
}

func TestLinearIsOneChainPerOutput(t *testing.T) {
	cases := linearCases(newRand(t, 1))
	eachDevice(t, func(t *testing.T, dev *CPU) {
		for _, c := range cases {
			requireSameBits(t, c.want, c.run(t, dev), c)
		}
	})
}

func TestLinearAgreesWithGonum(t *testing.T) {
	r := newRand(t, 2)
	c := newLinearCase(r, 70, 90, 200, false)
	y := make([]float32, c.rows*c.out)
	blas32.Gemm(blas.NoTrans, blas.Trans, 1,
		blas32.General{Rows: c.rows, Cols: c.in, Stride: c.in, Data: c.x},
		blas32.General{Rows: c.out, Cols: c.in, Stride: c.in, Data: c.w}, 0,
		blas32.General{Rows: c.rows, Cols: c.out, Stride: c.out, Data: y})
	eachISA(t, func(t *testing.T, isa ISA) {
		c.bias = nil
		require.InDeltaSlice(t, y, c.run(t, newDevice(t, isa, 2)), 1e-4)
	})
}

// A row's result must not depend on the batch around it.
func TestLinearIgnoresThePlaceInABatch(t *testing.T) {
	r := newRand(t, 3)
	c := newLinearCase(r, 31, 70, 150, false)
	eachDevice(t, func(t *testing.T, dev *CPU) {
		for range 10 {
			lo := r.IntN(c.rows)
			hi := lo + 1 + r.IntN(c.rows-lo)
			part := c
			part.rows, part.x = hi-lo, c.x[lo*c.in:hi*c.in]
			requireSameBits(t, c.want[lo*c.out:hi*c.out], part.run(t, dev), c, lo, hi)
		}
	})
}

func TestLinearPanicsOnShapesThatDisagree(t *testing.T) {
	dev := newDevice(t, Auto, 1)
	w, err := dev.Pack(hostMatrix(F32, 3, 4, make([]float32, 12)))
	require.NoError(t, err)
	b, err := dev.Alloc(DeviceMemory, F32, 100)
	require.NoError(t, err)
	require.PanicsWithValue(t, "kernel: linear: columns of src 5, want 4", func() {
		dev.Linear(MatOf(b, 2, 3), MatOf(b, 2, 5), w, nil)
	})
	require.Panics(t, func() { dev.Linear(MatOf(b, 40, 3), MatOf(b, 40, 4), w, nil) })
}
