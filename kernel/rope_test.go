package kernel

import (
	"math"
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
	x                 []float32
	pos               []int32
}

const ropePositions = 5000

func newRopeCase(r *rand.Rand) ropeCase {
	c := ropeCase{rows: 1 + r.IntN(20), heads: 1 + r.IntN(5), half: 1 + r.IntN(70)}
	c.x = randomFloats(r, c.rows*c.heads*2*c.half, r.IntN(3) == 0)
	for range c.rows {
		c.pos = append(c.pos, int32(r.IntN(ropePositions)))
	}
	return c
}

// want is the definition.
func (c *ropeCase) want(scale float32) []float32 {
	y := append([]float32{}, c.x...)
	for head := range c.rows * c.heads {
		for i, f := range frequencies(c.half) {
			s, co := detmath.SinCos(float64(float32(float32(c.pos[head/c.heads]) * f)))
			cos, sin := float32(co*float64(scale)), float32(s*float64(scale))
			a, b := &y[head*2*c.half+i], &y[head*2*c.half+c.half+i]
			*a, *b = float32(*a*cos)-float32(*b*sin), float32(*b*cos)+float32(*a*sin)
		}
	}
	return y
}

func (c *ropeCase) run(t *testing.T, dev *CPU, scale float32) []float32 {
	table, err := dev.NewRope(frequencies(c.half), scale, ropePositions)
	require.NoError(t, err)
	require.Equal(t, ropePositions, table.Positions())
	x := upload(t, dev, c.rows, c.heads*2*c.half, c.x)
	dev.RoPE(x, 2*c.half, table, c.pos)
	return download(x)
}

func TestRoPE(t *testing.T) {
	eachDevice(t, func(t *testing.T, dev *CPU) {
		r := newRand(t, 6)
		for range 8 {
			c := newRopeCase(r)
			requireSameBits(t, c.want(1.25), c.run(t, dev, 1.25))
		}
	})
}

// TestRoPEValues rotates (1, 0) and (0, 1) and compares with package math.
func TestRoPEValues(t *testing.T) {
	dev := newDevice(t, Portable, 1)
	c := ropeCase{rows: 2, heads: 1, half: 1, x: []float32{1, 0, 0, 1}, pos: []int32{3, 4999}}
	y := c.run(t, dev, 2)
	for r, p := range c.pos {
		sin, cos := math.Sincos(float64(p))
		want := [][]float64{{2 * cos, 2 * sin}, {-2 * sin, 2 * cos}}[r]
		require.InDeltaSlice(t, want, []float64{float64(y[2*r]), float64(y[2*r+1])}, 2e-7)
	}
}

func TestRoPERefusesWrongShapes(t *testing.T) {
	dev := newDevice(t, Portable, 1)
	table, err := dev.NewRope(frequencies(4), 1, 10)
	require.NoError(t, err)
	x := upload(t, dev, 1, 24, make([]float32, 24))
	require.NotPanics(t, func() { dev.RoPE(x, 8, table, []int32{9}) })
	require.PanicsWithValue(t, "kernel: rope: position 10 of a table of 10", func() { dev.RoPE(x, 8, table, []int32{10}) })
	require.PanicsWithValue(t, "kernel: rope: columns of a head 6, want 8", func() { dev.RoPE(x, 6, table, []int32{0}) })
	require.PanicsWithValue(t, "kernel: rope: 12 columns in heads of 8", func() { dev.RoPE(x.ColRange(0, 12), 8, table, []int32{0}) })
	_, err = dev.NewRope(nil, 1, -1)
	require.ErrorContains(t, err, "-1 positions")
}
