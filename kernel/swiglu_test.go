package kernel

import (
	"math"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/tandem-moe/tandem/kernel/detmath"
)

func TestSwiGLU(t *testing.T) {
	eachDevice(t, func(t *testing.T, dev *CPU) {
		r := newRand(t, 7)
		for range 20 {
			rows, cols := 1+r.IntN(30), 1+r.IntN(200)
			x := randomFloats(r, rows*2*cols, r.IntN(2) == 0)
			for i := range x {
				x[i] *= 30 // the exponential's whole range
			}
			var want []float32
			for i := range rows * cols {
				row := x[i/cols*2*cols:]
				want = append(want, float32(detmath.SiLU32(row[i%cols])*row[cols+i%cols]))
			}
			dst := upload(t, dev, rows, cols, make([]float32, rows*cols))
			dev.SwiGLU(dst, upload(t, dev, rows, 2*cols, x), SwiGLUParams{})
			requireSameBits(t, want, download(dst))
		}
	})
}

// TestShapedSwiGLU compares with gpt-oss's activation in float64; what lies beyond the
// limits counts as the limit.
func TestShapedSwiGLU(t *testing.T) {
	const rows, cols = 7, 90
	x := randomFloats(newRand(t, 71), rows*2*cols, false)
	for _, p := range []SwiGLUParams{{Limit: 7, Alpha: 1.702, Offset: 1}, {Limit: 0.5}, {Alpha: 2}, {Offset: -1}} {
		alpha, limit := float64(p.Alpha), float64(p.Limit)
		if alpha == 0 {
			alpha = 1
		}
		if limit == 0 {
			limit = math.Inf(1)
		}
		var want []float64
		for i := range rows * cols {
			row := x[i/cols*2*cols:]
			g, u := min(float64(row[i%cols]), limit), min(max(float64(row[cols+i%cols]), -limit), limit)
			want = append(want, g/(1+math.Exp(-alpha*g))*(u+float64(p.Offset)))
		}
		dev := newDevice(t, Auto, 2)
		dst := upload(t, dev, rows, cols, make([]float32, rows*cols))
		dev.SwiGLU(dst, upload(t, dev, rows, 2*cols, x), p)
		for i, v := range download(dst) {
			require.InDelta(t, want[i], float64(v), 1e-5, "%+v, element %d", p, i)
		}
	}
}
