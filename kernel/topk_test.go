package kernel

import (
	"math"
	"sort"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/tandem-moe/tandem/kernel/detmath"
)

// probabilities is the definition of a row's softmax.
func probabilities(x []float32) []float32 {
	m := maxPortable(x)
	var l lanes
	p := make([]float32, len(x))
	for i, v := range x {
		p[i] = detmath.Exp32(v - m)
		l[i%Lanes] += p[i]
	}
	sum := l.sum()
	for i := range p {
		p[i] /= sum
	}
	return p
}

// chosen is the definition of top-k: sort stably, take the first.
func chosen(p []float32, router RouterParams) (idx []int32, w []float32) {
	order := make([]int, len(p))
	for i := range order {
		order[i] = i
	}
	sort.SliceStable(order, func(a, b int) bool { return p[order[a]] > p[order[b]] })
	var sum float32
	for i, e := range order[:router.TopK] {
		idx, w = append(idx, int32(e)), append(w, p[e])
		if sum += p[e]; i == 0 {
			sum = p[e]
		}
	}
	for i := range w {
		if router.Normalize {
			w[i] /= sum
		}
	}
	return idx, w
}

func runTopK(t *testing.T, dev *CPU, rows, cols int, x []float32, p RouterParams) ([]int32, []float32) {
	idx, err := dev.Alloc(I32, rows*p.TopK)
	require.NoError(t, err)
	weight, err := dev.Alloc(F32, rows*p.TopK)
	require.NoError(t, err)
	dev.TopK(idx, weight, upload(t, dev, rows, cols, x), p)
	return i32s(idx), f32s(weight)
}

func TestTopK(t *testing.T) {
	eachDevice(t, func(t *testing.T, dev *CPU) {
		r := newRand(t, 8)
		for range 40 {
			rows, cols := 1+r.IntN(50), 1+r.IntN(140)
			p := RouterParams{TopK: 1 + r.IntN(min(cols, 9)), Normalize: r.IntN(2) == 0}
			x := randomFloats(r, rows*cols, false)
			if r.IntN(3) == 0 { // many ties
				for i := range x {
					x[i] = float32(r.IntN(4))
				}
			}
			var wantIdx []int32
			var want []float32
			for row := range rows {
				i, w := chosen(probabilities(x[row*cols:(row+1)*cols]), p)
				wantIdx, want = append(wantIdx, i...), append(want, w...)
			}
			idx, weight := runTopK(t, dev, rows, cols, x, p)
			require.Equal(t, wantIdx, idx)
			requireSameBits(t, want, weight)
		}
	})
}

// TestTopKOfWhatIsNotFinite: a broken row chooses the lowest columns.
func TestTopKOfWhatIsNotFinite(t *testing.T) {
	eachDevice(t, func(t *testing.T, dev *CPU) {
		for _, v := range []float32{float32(math.NaN()), -negInf} {
			x := randomFloats(newRand(t, 9), 20, false)
			x[17] = v
			idx, weight := runTopK(t, dev, 1, 20, x, RouterParams{TopK: 3, Normalize: true})
			if v != v {
				require.Equal(t, []int32{0, 1, 2}, idx)
			}
			require.True(t, weight[0] != weight[0], "weights are NaN")
		}
		idx, _ := runTopK(t, dev, 1, 4, []float32{negInf, negInf, negInf, negInf}, RouterParams{TopK: 2})
		require.Equal(t, []int32{0, 1}, idx)
	})
}

func TestTopKRefusesWrongShapes(t *testing.T) {
	dev := newDevice(t, Portable, 1)
	x := upload(t, dev, 2, 3, make([]float32, 6))
	idx, err := dev.Alloc(I32, 5)
	require.NoError(t, err)
	weight, err := dev.Alloc(F32, 6)
	require.NoError(t, err)
	require.PanicsWithValue(t, "kernel: top-k: 4 of 3 columns", func() { dev.TopK(idx, weight, x, RouterParams{TopK: 4}) })
	require.PanicsWithValue(t, "kernel: top-k: room for 5 indices and 6 weights, want 6", func() { dev.TopK(idx, weight, x, RouterParams{TopK: 3}) })
}
