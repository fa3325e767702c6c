package kernel

import (
	"math"
	"math/rand/v2"
	"slices"
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

// scoresOf is the definition of a row's scores.
func scoresOf(x []float32, s Scores) []float32 {
	if s == Softmax {
		return probabilities(x)
	}
	p := make([]float32, len(x))
	for i, v := range x {
		p[i] = detmath.Sigmoid32(v)
	}
	return p
}

// order lists indices by falling value, ties to the lower.
func order(value []float32) []int {
	list := make([]int, len(value))
	for i := range list {
		list[i] = i
	}
	sort.SliceStable(list, func(a, b int) bool { return value[list[a]] > value[list[b]] })
	return list
}

// chosen is the definition of top-k: sort stably, take the first.
func chosen(p []float32, router RouterParams, bias []float32) (idx []int32, w []float32) {
	ranks := append([]float32{}, p...)
	for i, b := range bias {
		ranks[i] += b
	}
	allowed := func(int) bool { return true }
	if router.Groups > 0 {
		allowed = allowedGroups(ranks, router)
	}
	for _, e := range order(ranks) {
		if allowed(e) && len(idx) < router.TopK {
			idx, w = append(idx, int32(e)), append(w, p[e])
		}
	}
	if router.Normalize {
		sum := w[0]
		for _, v := range w[1:] {
			sum += v
		}
		if router.Scores == Sigmoid {
			sum += 1e-20
		}
		for i := range w {
			w[i] /= sum
		}
	}
	for i := range w {
		if router.Scale != 0 {
			w[i] *= router.Scale
		}
	}
	return idx, w
}

// allowedGroups says which experts lie in the best groups.
func allowedGroups(ranks []float32, router RouterParams) func(e int) bool {
	size := len(ranks) / router.Groups
	sums := make([]float32, router.Groups)
	for g := range sums {
		part := ranks[g*size : (g+1)*size]
		for i, e := range order(part)[:router.GroupBest] {
			if i == 0 {
				sums[g] = part[e]
			} else {
				sums[g] += part[e]
			}
		}
	}
	best := order(sums)[:router.TopGroups]
	return func(e int) bool { return slices.Contains(best, e/size) }
}

// randomRouter draws a way to choose of so many experts.
func randomRouter(r *rand.Rand, experts int) (p RouterParams, bias []float32) {
	p = RouterParams{Normalize: r.IntN(2) == 0, Scores: Scores(r.IntN(2)), Scale: []float32{0, 1, 2.5}[r.IntN(3)]}
	allowed := experts
	if r.IntN(2) == 0 {
		for p.Groups = 1 + r.IntN(8); experts%p.Groups != 0; {
			p.Groups--
		}
		p.TopGroups, p.GroupBest = 1+r.IntN(p.Groups), 1+r.IntN(min(3, experts/p.Groups))
		allowed = p.TopGroups * (experts / p.Groups)
	}
	p.TopK = 1 + r.IntN(min(allowed, 9))
	if r.IntN(2) == 0 {
		bias = randomFloats(r, experts, false)
	}
	return p, bias
}

func runTopK(t *testing.T, dev *CPU, rows, cols int, x []float32, p RouterParams) ([]int32, []float32) {
	idx, err := dev.Alloc(DeviceMemory, I32, rows*p.TopK)
	require.NoError(t, err)
	weight, err := dev.Alloc(DeviceMemory, F32, rows*p.TopK)
	require.NoError(t, err)
	dev.TopK(idx, weight, upload(t, dev, rows, cols, x), p)
	return i32s(idx), f32s(weight)
}

func TestTopK(t *testing.T) {
	eachDevice(t, func(t *testing.T, dev *CPU) {
		r := newRand(t, 8)
		for n := range 60 {
			rows, cols := 1+r.IntN(50), 1+r.IntN(140)
			p, bias := RouterParams{TopK: 1 + r.IntN(min(cols, 9)), Normalize: r.IntN(2) == 0}, []float32(nil)
			if n%3 > 0 {
				p, bias = randomRouter(r, cols)
			}
			if bias != nil {
				var err error
				p.Bias, err = dev.Vector(F32, narrow(F32, bias))
				require.NoError(t, err)
			}
			x := randomFloats(r, rows*cols, false)
			if r.IntN(3) == 0 { // many ties
				for i := range x {
					x[i] = float32(r.IntN(4))
				}
			}
			var wantIdx []int32
			var want []float32
			for row := range rows {
				i, w := chosen(scoresOf(x[row*cols:(row+1)*cols], p.Scores), p, bias)
				wantIdx, want = append(wantIdx, i...), append(want, w...)
			}
			idx, weight := runTopK(t, dev, rows, cols, x, p)
			require.Equal(t, wantIdx, idx, "%+v", p)
			requireSameBits(t, want, weight, p)
		}
	})
}

// TestTopKChoosesAsDeepSeek works through section 2.1.2 of
// https://arxiv.org/abs/2412.19437 by hand: eight experts in four groups, of which the
// two with the largest sums of two scores may be chosen from; the biases decide who is
// chosen and leave the weights alone.
func TestTopKChoosesAsDeepSeek(t *testing.T) {
	dev := newDevice(t, Portable, 1)
	logit := func(p float64) float32 { return float32(math.Log(p / (1 - p))) }
	var x []float32
	for _, score := range []float64{0.9, 0.1 /**/, 0.6, 0.5 /**/, 0.4, 0.3 /**/, 0.2, 0.7} {
		x = append(x, logit(score))
	}
	bias, err := dev.Vector(F32, narrow(F32, []float32{0, 0, 0, 0, 0.5, 0, 0, 0}))
	require.NoError(t, err)
	p := RouterParams{TopK: 3, Scores: Sigmoid, Bias: bias, Groups: 4, TopGroups: 2, GroupBest: 2, Normalize: true, Scale: 2.5}
	// Sums: 1.0, 1.1, 1.2 with the bias, 0.9. Expert 0, the best of all, is in none of the
	// two best groups.
	ids, weights := runTopK(t, dev, 1, 8, x, p)
	require.Equal(t, []int32{4, 2, 3}, ids)
	for i, score := range []float64{0.4, 0.6, 0.5} {
		require.InDelta(t, 2.5*score/1.5, float64(weights[i]), 1e-6)
	}
	p.GroupBest = 1 // 0.9, 0.6, 0.9, 0.7: as DeepSeek-V2
	ids, _ = runTopK(t, dev, 1, 8, x, p)
	require.Equal(t, []int32{0, 4, 5}, ids)
}

// TestSigmoidScoresThatVanish: weights of experts whose scores are all 0 are 0, not NaN.
func TestSigmoidScoresThatVanish(t *testing.T) {
	dev := newDevice(t, Portable, 1)
	_, weights := runTopK(t, dev, 1, 3, []float32{-200, -200, -200}, RouterParams{TopK: 2, Scores: Sigmoid, Normalize: true})
	require.Equal(t, []float32{0, 0}, weights)
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
	idx, err := dev.Alloc(DeviceMemory, I32, 5)
	require.NoError(t, err)
	weight, err := dev.Alloc(DeviceMemory, F32, 6)
	require.NoError(t, err)
	run := func(p RouterParams) func() { return func() { dev.TopK(idx, weight, x, p) } }
	require.PanicsWithValue(t, "kernel: top-k: room for 5 ids and 6 weights, want 6", run(RouterParams{TopK: 3}))
	require.PanicsWithValue(t, "kernel: top-k: 2 of 1 columns", run(RouterParams{TopK: 2, Groups: 3, TopGroups: 1, GroupBest: 1}))
	require.PanicsWithValue(t, "kernel: top-k: 3 experts in 2 groups, the 1 best by their 1 best experts", run(RouterParams{TopK: 1, Groups: 2, TopGroups: 1, GroupBest: 1}))
	require.PanicsWithValue(t, "kernel: top-k: 3 experts in 3 groups, the 1 best by their 0 best experts", run(RouterParams{TopK: 1, Groups: 3, TopGroups: 1}))
	require.PanicsWithValue(t, "kernel: top-k: elements of the bias 6, want 3", run(RouterParams{TopK: 1, Bias: weight}))
	require.PanicsWithValue(t, "kernel: top-k: Scores(2)", run(RouterParams{TopK: 1, Scores: 2}))
	require.PanicsWithValue(t, "kernel: top-k: 0 of 3 columns", run(RouterParams{}))
}
