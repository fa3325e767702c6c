package kernel

import (
	"math"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/tandem-moe/tandem/kernel/detmath"
)

func runLogSumExp(t *testing.T, dev *CPU, rows, cols int, x []float32) []float32 {
	dst := upload(t, dev, rows, 1, make([]float32, rows))
	dev.LogSumExp(dst, upload(t, dev, rows, cols, x))
	return download(dst)
}

func TestLogSumExp(t *testing.T) {
	eachDevice(t, func(t *testing.T, dev *CPU) {
		r := newRand(t, 10)
		for range 20 {
			rows, cols := 1+r.IntN(9), 1+r.IntN(3000)
			x := randomFloats(r, rows*cols, false)
			var want []float32
			for row := range rows {
				part := x[row*cols : (row+1)*cols]
				m := maxPortable(part)
				var l lanes
				exact := 0.0
				for i, v := range part {
					l[i%Lanes] += detmath.Exp32(v - m)
					exact += math.Exp(float64(v))
				}
				want = append(want, m+detmath.Log32(l.sum()))
				require.InDelta(t, math.Log(exact), float64(want[row]), 2e-6)
			}
			requireSameBits(t, want, runLogSumExp(t, dev, rows, cols, x))
		}
	})
}

// TestLogSumExpShowsWhatIsNotFinite: wherever it stands.
func TestLogSumExpShowsWhatIsNotFinite(t *testing.T) {
	eachDevice(t, func(t *testing.T, dev *CPU) {
		for _, bad := range []float32{negInf, -negInf, float32(math.NaN())} {
			for at := range 35 {
				x := randomFloats(newRand(t, 11), 35, false)
				x[at] = bad
				y := runLogSumExp(t, dev, 1, 35, x)[0]
				require.True(t, y-y != 0, "element %d is %v: got %v", at, bad, y)
			}
		}
		require.Equal(t, []float32{88, -300}, runLogSumExp(t, dev, 2, 1, []float32{88, -300}))
	})
}
