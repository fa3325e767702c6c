package kernel

import (
	"fmt"
	"testing"

	"github.com/stretchr/testify/require"
)

func TestGoldenBitsOfAttention(t *testing.T) {
	var cases []goldenCase
	for seed := range uint64(6) {
		r := newRand(t, 100+seed)
		a, l := randomAttention(r, 300), randomLayout(r)
		name := fmt.Sprintf("%d: heads %d/%d of %d, window %d", seed, a.heads, a.kvHeads, a.dim, a.window)
		cases = append(cases, goldenCase{name, func(t *testing.T, dev *CPU) []float32 {
			return a.store(t, dev, newRand(t, seed), l).got(t, l)
		}})
	}
	goldenBits(t, "attention.txt", cases)
}

func TestGoldenBitsOfFunctions(t *testing.T) {
	r := newRand(t, 120)
	const rows, cols = 5, 140
	x, w := randomFloats(r, rows*cols, false), randomFloats(r, cols, false)
	for i := range x {
		x[i] *= 10
	}
	rope := newRopeCase(r)
	goldenBits(t, "functions.txt", []goldenCase{
		{"rms norm", func(t *testing.T, dev *CPU) []float32 {
			weight, err := dev.Vector(F32, narrow(F32, w))
			require.NoError(t, err)
			m := upload(t, dev, rows, cols, x)
			dev.RMSNorm(m, m, weight, 1, 1e-5)
			return download(m)
		}},
		{"rope", func(t *testing.T, dev *CPU) []float32 { return rope.run(t, dev, 0.75) }},
		{"swiglu", func(t *testing.T, dev *CPU) []float32 {
			dst := upload(t, dev, rows, cols/2, make([]float32, rows*cols/2))
			dev.SwiGLU(dst, upload(t, dev, rows, cols, x))
			return download(dst)
		}},
		{"top-k", func(t *testing.T, dev *CPU) []float32 {
			idx, weight := runTopK(t, dev, rows, cols, x, RouterParams{TopK: 6, Normalize: true})
			for i, e := range idx {
				weight = append(weight, float32(e), weight[i])
			}
			return weight
		}},
		{"log-sum-exp", func(t *testing.T, dev *CPU) []float32 { return runLogSumExp(t, dev, rows, cols, x) }},
	})
}
