package kernel

import (
	"math"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/tandem-moe/tandem/kernel/detmath"
)

// TestLanesFoldByHalves writes the tree out.
func TestLanesFoldByHalves(t *testing.T) {
	r := newRand(t, 1)
	var l lanes
	copy(l[:], randomFloats(r, Lanes, false))
	a := l
	want := ((a[0] + a[8]) + (a[4] + a[12])) + ((a[2] + a[10]) + (a[6] + a[14])) +
		(((a[1] + a[9]) + (a[5] + a[13])) + ((a[3] + a[11]) + (a[7] + a[15])))
	require.Equal(t, math.Float32bits(want), math.Float32bits(l.sum()))
}

// TestVectorExpIsExp32: the assembly's exponential is detmath's, for random
// bits and around the ends of its range.
func TestVectorExpIsExp32(t *testing.T) {
	eachISA(t, func(t *testing.T, isa ISA) {
		r := newRand(t, 2)
		for i := range 20_000 {
			x := make([]float32, Lanes)
			for j := range x {
				switch i % 3 {
				case 0:
					x[j] = math.Float32frombits(r.Uint32())
				case 1:
					x[j] = (r.Float32() - 0.5) * 220
				default:
					x[j] = -87 - 17*r.Float32() // subnormal results
				}
			}
			want := make([]float32, Lanes)
			for j, v := range x {
				want[j] = detmath.Exp32(v)
			}
			var got lanes
			sumExpLanes(isa, &got, x, 0)
			requireSameBits(t, want, got[:], x)
		}
	})
}

// TestVectorReductions: softmax and extremes of any number of blocks, special
// values among them.
func TestVectorReductions(t *testing.T) {
	eachISA(t, func(t *testing.T, isa ISA) {
		r := newRand(t, 3)
		for blocks := 1; blocks < 40; blocks++ {
			x := randomFloats(r, blocks*Lanes, blocks%2 == 0)
			low, high := extremesPortable(x)
			gotLow, gotHigh := extremes(isa, x)
			require.Equal(t, []float32{low, high}, []float32{gotLow, gotHigh})

			want, got := append([]float32{}, x...), append([]float32{}, x...)
			m, sum := softmaxPortable(want)
			gotM, gotSum := softmax(isa, got)
			requireSameBits(t, append(want, m, sum), append(got, gotM, gotSum))
		}
	})
}
