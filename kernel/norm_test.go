package kernel

import (
	"fmt"
	"math"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/tandem-moe/tandem/kernel/detmath"
)

// rmsNorm is the definition: one part of a row.
func rmsNorm(x, w []float32, eps float32) []float32 {
	var l lanes
	for i, v := range x {
		l[i%Lanes] = detmath.FMA32(v, v, l[i%Lanes])
	}
	mean := l.sum() / float32(len(x))
	scale := 1 / float32(math.Sqrt(float64(mean+eps)))
	y := make([]float32, len(x))
	for i, v := range x {
		y[i] = float32(float32(v*scale) * w[i])
	}
	return y
}

func TestRMSNorm(t *testing.T) {
	eachDevice(t, func(t *testing.T, dev *CPU) {
		r := newRand(t, 4)
		for range 30 {
			rows, groups, n := 1+r.IntN(20), 1+r.IntN(4), 1+r.IntN(300)
			cols := groups * n
			x := randomFloats(r, rows*cols, r.IntN(3) == 0)
			w := randomFloats(r, []int{n, cols}[r.IntN(2)], false)
			var want []float32
			for i := 0; i < len(x); i += n {
				at := i % len(w)
				want = append(want, rmsNorm(x[i:i+n], w[at:at+n], 1e-6)...)
			}
			weight, err := dev.Vector(F32, narrow(F32, w))
			require.NoError(t, err)
			src, dst := upload(t, dev, rows, cols, x), upload(t, dev, rows, cols, make([]float32, len(x)))
			what := fmt.Sprintf("%d rows of %d groups of %d, %d weights", rows, groups, n, len(w))
			dev.RMSNorm(dst, src, weight, groups, 1e-6)
			requireSameBits(t, want, download(dst), what)
			dev.RMSNorm(src, src, weight, groups, 1e-6)
			requireSameBits(t, want, download(src), what, " in place")
		}
	})
}

func TestRMSNormValues(t *testing.T) {
	r := newRand(t, 5)
	x, w := randomFloats(r, 2048, false), randomFloats(r, 2048, false)
	mean := 0.0
	for _, v := range x {
		mean += float64(v) * float64(v) / float64(len(x))
	}
	for i, y := range rmsNorm(x, w, 1e-5) {
		require.InDelta(t, float64(x[i])*float64(w[i])/math.Sqrt(mean+1e-5), float64(y), 2e-6)
	}
}

func TestRMSNormRefusesWrongShapes(t *testing.T) {
	dev := newDevice(t, Portable, 1)
	x := upload(t, dev, 2, 12, make([]float32, 24))
	w, err := dev.Vector(F32, make([]byte, 4*6))
	require.NoError(t, err)
	require.NotPanics(t, func() { dev.RMSNorm(x, x, w, 2, 1) })
	require.PanicsWithValue(t, "kernel: rms norm: 12 columns in 5 groups", func() { dev.RMSNorm(x, x, w, 5, 1) })
	require.PanicsWithValue(t, "kernel: rms norm: 6 weights, want 4 or 12", func() { dev.RMSNorm(x, x, w, 3, 1) })
}
