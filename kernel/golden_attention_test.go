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
			dev.SwiGLU(dst, upload(t, dev, rows, cols, x), SwiGLUParams{})
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

// TestGoldenBitsOfKinds are the bits of what models that are not served yet compute:
// values of a width of their own, sinks, partial and interleaved rotations, and the
// router of DeepSeek-V3.
func TestGoldenBitsOfKinds(t *testing.T) {
	var cases []goldenCase
	for seed := range uint64(4) {
		r := newRand(t, 200+seed)
		a, l := variedAttention(r, 300), randomLayout(r)
		name := fmt.Sprintf("%d: heads %d/%d of %d and %d, window %d, sinks %v", seed, a.heads, a.kvHeads, a.dim, a.valueDim, a.window, a.sinks != nil)
		cases = append(cases, goldenCase{name, func(t *testing.T, dev *CPU) []float32 {
			return a.store(t, dev, newRand(t, seed), l).got(t, l)
		}})
		rope := newPartialRopeCase(r)
		cases = append(cases, goldenCase{fmt.Sprintf("rope %+v", rope.params()), func(t *testing.T, dev *CPU) []float32 {
			return rope.run(t, dev, 0.75)
		}})
	}
	r := newRand(t, 220)
	const rows, experts = 5, 64
	x, bias := randomFloats(r, rows*experts, false), randomFloats(r, experts, false)
	cases = append(cases, goldenCase{"router", func(t *testing.T, dev *CPU) []float32 {
		b, err := dev.Vector(F32, narrow(F32, bias))
		require.NoError(t, err)
		ids, weights := runTopK(t, dev, rows, experts, x, RouterParams{
			TopK: 8, Scores: Sigmoid, Bias: b, Groups: 8, TopGroups: 4, GroupBest: 2, Normalize: true, Scale: 2.5,
		})
		for i, e := range ids {
			weights = append(weights, float32(e), weights[i])
		}
		return weights
	}})
	cases = append(cases, goldenCase{"swiglu", func(t *testing.T, dev *CPU) []float32 {
		dst := upload(t, dev, rows, experts/2, make([]float32, rows*experts/2))
		dev.SwiGLU(dst, upload(t, dev, rows, experts, x), SwiGLUParams{Limit: 1.5, Alpha: 1.702, Offset: 1})
		return download(dst)
	}})
	goldenBits(t, "kinds.txt", cases)
}
