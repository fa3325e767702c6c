package kernel

import (
	"math/cmplx"
	"math/rand/v2"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/tandem-moe/tandem/kernel/detmath"
)

// frequencies are those of a head of 2·half columns.
func frequencies(half int) []float32 {
	inv := make([]float32, half)
	for i := range inv {
		inv[i] = float32(detmath.Pow(10000, -float64(i)/float64(half)))
	}
	return inv
}

// ropeCase is rows of heads to rotate.
type ropeCase struct {
	rows, heads, half int
	before, after     int // elements of a head that are not rotated
	interleaved       bool
	x                 []float32
	pos               []int32
}

func (c *ropeCase) params() RopeParams {
	return RopeParams{HeadDim: c.headDim(), First: c.before, Interleaved: c.interleaved}
}

func (c *ropeCase) headDim() int { return c.before + 2*c.half + c.after }

const ropePositions = 5000

func newRopeCase(r *rand.Rand) ropeCase {
	c := ropeCase{rows: 1 + r.IntN(20), heads: 1 + r.IntN(5), half: 1 + r.IntN(70)}
	c.x = randomFloats(r, c.rows*c.heads*2*c.half, r.IntN(3) == 0)
	for range c.rows {
		c.pos = append(c.pos, int32(r.IntN(ropePositions)))
	}
	return c
}

// newPartialRopeCase draws heads of which a part is rotated, in either order of pairs.
func newPartialRopeCase(r *rand.Rand) ropeCase {
	c := ropeCase{rows: 1 + r.IntN(20), heads: 1 + r.IntN(5), half: 1 + r.IntN(40)}
	c.before, c.after, c.interleaved = r.IntN(2)*r.IntN(70), r.IntN(2)*r.IntN(70), r.IntN(2) == 0
	c.x = randomFloats(r, c.rows*c.heads*c.headDim(), r.IntN(3) == 0)
	for range c.rows {
		c.pos = append(c.pos, int32(r.IntN(ropePositions)))
	}
	return c
}

// pair is where pair i of a head lies.
func (c *ropeCase) pair(head, i int) (a, b int) {
	first := head*c.headDim() + c.before
	if c.interleaved {
		return first + 2*i, first + 2*i + 1
	}
	return first + i, first + i + c.half
}

// want is the definition.
func (c *ropeCase) want(scale float32) []float32 {
	y := append([]float32{}, c.x...)
	for head := range c.rows * c.heads {
		for i, f := range frequencies(c.half) {
			s, co := detmath.SinCos(float64(float32(float32(c.pos[head/c.heads]) * f)))
			cos, sin := float32(co*float64(scale)), float32(s*float64(scale))
			at, bt := c.pair(head, i)
			a, b := &y[at], &y[bt]
			*a, *b = float32(*a*cos)-float32(*b*sin), float32(*b*cos)+float32(*a*sin)
		}
	}
	return y
}

func (c *ropeCase) run(t *testing.T, dev *CPU, scale float32) []float32 {
	table, err := dev.NewRope(frequencies(c.half), scale, ropePositions)
	require.NoError(t, err)
	require.Equal(t, ropePositions, table.Positions())
	require.Equal(t, c.half, table.Pairs())
	x := upload(t, dev, c.rows, c.heads*c.headDim(), c.x)
	dev.RoPE(x, table, c.params(), c.pos)
	return download(x)
}

func TestRoPE(t *testing.T) {
	eachDevice(t, func(t *testing.T, dev *CPU) {
		r := newRand(t, 6)
		for range 8 {
			c := newRopeCase(r)
			requireSameBits(t, c.want(1.25), c.run(t, dev, 1.25))
			c = newPartialRopeCase(r)
			requireSameBits(t, c.want(1.25), c.run(t, dev, 1.25), c.params())
		}
	})
}

// TestRoPEValues rotates pairs, apart and interleaved, between elements that stay,
// and compares with complex multiplication in float64.
func TestRoPEValues(t *testing.T) {
	dev := newDevice(t, Portable, 1)
	for _, interleaved := range []bool{false, true} {
		c := ropeCase{rows: 2, heads: 2, half: 3, before: 2, after: 1, interleaved: interleaved, pos: []int32{3, 4999}}
		c.x = randomFloats(newRand(t, 61), c.rows*c.heads*c.headDim(), false)
		y := c.run(t, dev, 2)
		want := make([]float64, len(c.x))
		for i, v := range c.x {
			want[i] = float64(v)
		}
		for head := range c.rows * c.heads {
			for i, f := range frequencies(c.half) {
				a, b := c.pair(head, i)
				angle := float64(f * float32(c.pos[head/c.heads]))
				turned := complex(want[a], want[b]) * cmplx.Rect(2, angle)
				want[a], want[b] = real(turned), imag(turned)
			}
		}
		for i := range want {
			require.InDelta(t, want[i], float64(y[i]), 2e-6, "element %d, interleaved %v", i, interleaved)
		}
	}
}

func TestRoPERefusesWrongShapes(t *testing.T) {
	dev := newDevice(t, Portable, 1)
	table, err := dev.NewRope(frequencies(4), 1, 10)
	require.NoError(t, err)
	x := upload(t, dev, 1, 24, make([]float32, 24))
	run := func(x Mat, p RopeParams, pos int32) func() { return func() { dev.RoPE(x, table, p, []int32{pos}) } }
	require.NotPanics(t, run(x, RopeParams{HeadDim: 8}, 9))
	require.PanicsWithValue(t, "kernel: rope: position 10 of a table of 10", run(x, RopeParams{HeadDim: 8}, 10))
	require.PanicsWithValue(t, "kernel: rope: 4 pairs from element 0 of heads of 6", run(x, RopeParams{HeadDim: 6}, 0))
	require.PanicsWithValue(t, "kernel: rope: 4 pairs from element 5 of heads of 12", run(x, RopeParams{HeadDim: 12, First: 5}, 0))
	require.PanicsWithValue(t, "kernel: rope: 12 columns in heads of 8", run(x.ColRange(0, 12), RopeParams{HeadDim: 8}, 0))
	_, err = dev.NewRope(nil, 1, -1)
	require.ErrorContains(t, err, "-1 positions")
}
