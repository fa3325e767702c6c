package sample

import (
	"fmt"
	"math"
	"math/rand/v2"
	"slices"
	"testing"

	"github.com/stretchr/testify/require"
	"gonum.org/v1/gonum/stat/distuv"
	"pgregory.net/rapid"
)

var negInf = float32(math.Inf(-1))

// sortedCandidates returns a row's candidates in their order, by a plain sort.
func sortedCandidates(row []float32) []Candidate {
	var all []Candidate
	for i, v := range row {
		all = append(all, Candidate{int32(i), v})
	}
	slices.SortStableFunc(all, func(a, b Candidate) int {
		switch {
		case a.Logit > b.Logit:
			return -1
		case a.Logit < b.Logit:
			return 1
		}
		return 0
	})
	return all
}

// slowSample is [Sampler.Sample] after the processors, in the simplest way: sort all
// candidates, cut the list, lay the rest out by id.
func slowSample(row []float32, chain *Chain, position int) (token int32, kept []int32) {
	all := sortedCandidates(row)
	if chain.Temperature == 0 {
		return all[0].Token, nil
	}
	best := all[0].Logit
	weigh := func(c Candidate) uint64 {
		return weight((float64(c.Logit) - float64(best)) / chain.Temperature)
	}
	if chain.TopK > 0 {
		all = all[:min(chain.TopK, len(all))]
	}
	all = slices.DeleteFunc(all, func(c Candidate) bool {
		return weigh(c) < leastWeight(chain.MinP)
	})
	sum := func(cs []Candidate) (sum uint64) {
		for _, c := range cs {
			sum += weigh(c)
		}
		return sum
	}
	if chain.limitsMass() {
		n := 1
		for sum(all[:n]) < share(chain.TopP, sum(all)) {
			n++
		}
		all = all[:n]
	}
	slices.SortFunc(all, func(a, b Candidate) int { return int(a.Token - b.Token) })
	s := Sampler{}
	for _, c := range all {
		kept = append(kept, c.Token)
		s.keys = append(s.keys, keyOf(c.Logit, int(c.Token)))
		s.weights = append(s.weights, weigh(c))
	}
	return s.draw(random64(chain.Seed, chain.Choice, uint64(position))), kept
}

// rows draws logits with many ties, masks and wide ranges.
func rows(t *rapid.T) []float32 {
	element := rapid.OneOf(
		rapid.Map(rapid.IntRange(-8, 8), func(i int) float32 { return float32(i) / 2 }),
		rapid.Float32Range(-40, 40),
		rapid.SampledFrom([]float32{negInf, 0, float32(math.Copysign(0, -1)), 3e38, -3e38}),
	)
	row := rapid.SliceOfN(element, 1, 300).Draw(t, "row")
	row[rapid.IntRange(0, len(row)-1).Draw(t, "finite")] = 1
	return row
}

func chains(t *rapid.T) Chain {
	return Chain{
		Temperature: rapid.SampledFrom([]float64{0, 1e-300, 0.01, 0.3, 1, 1.7, 50, 1e300}).Draw(t, "temperature"),
		TopK:        rapid.SampledFrom([]int{0, 1, 2, 5, 100, 1000}).Draw(t, "top-k"),
		TopP:        rapid.SampledFrom([]float64{0, 1e-9, 0.1, 0.5, 0.9, 0.999, 1}).Draw(t, "top-p"),
		MinP:        rapid.SampledFrom([]float64{0, 1e-20, 0.001, 0.1, 1}).Draw(t, "min-p"),
		Seed:        rapid.Uint64().Draw(t, "seed"),
		Choice:      rapid.Uint32().Draw(t, "choice"),
	}
}

func TestSampleEqualsTheSlowVersion(t *testing.T) {
	var s Sampler
	rapid.Check(t, func(t *rapid.T) {
		row, chain := rows(t), chains(t)
		var c Counter
		c.Reset(nil, make([]int32, rapid.IntRange(0, 3).Draw(t, "position")))
		before := slices.Clone(row)
		got, err := s.Sample(row, &chain, &c)
		require.NoError(t, err)
		want, kept := slowSample(row, &chain, c.Outputs())
		require.Equal(t, want, got)
		require.Equal(t, before, row, "the logits are the caller's")
		if chain.Temperature == 0 {
			return
		}
		var tokens []int32
		for _, k := range s.keys {
			tokens = append(tokens, tokenOf(k))
		}
		require.Equal(t, kept, tokens)
	})
}

func TestGreedyTakesTheLowerIDOfTies(t *testing.T) {
	var s Sampler
	zero := float32(math.Copysign(0, -1))
	for _, row := range [][]float32{{1, 3, 3}, {negInf, 0, zero}, {-5, zero, 0}} {
		got, err := s.Sample(row, &Chain{}, &Counter{})
		require.NoError(t, err)
		require.Equal(t, int32(1), got)
	}
}

func TestTopKOneIsGreedy(t *testing.T) {
	var s Sampler
	rapid.Check(t, func(t *rapid.T) {
		row := rows(t)
		greedy, err := s.Sample(row, &Chain{}, &Counter{})
		require.NoError(t, err)
		for _, chain := range []Chain{
			{Temperature: 2, TopK: 1}, {Temperature: 2, TopP: 1e-12}, {Temperature: 1e-310},
		} {
			got, err := s.Sample(row, &chain, &Counter{})
			require.NoError(t, err)
			if chain.TopK == 1 {
				require.Equal(t, greedy, got)
			}
			require.Equal(t, row[greedy], row[got])
		}
	})
}

func TestLogitsThatNoModelMayGive(t *testing.T) {
	var s Sampler
	for _, bad := range []float32{float32(math.NaN()), float32(math.Inf(1))} {
		for _, chain := range []Chain{{}, {Temperature: 1, Processors: []Processor{Forbid{1, []int32{1}}}}} {
			_, err := s.Sample([]float32{0, bad, 0}, &chain, &Counter{})
			var nf *NotFiniteError
			require.ErrorAs(t, err, &nf)
			require.Equal(t, int32(1), nf.Token)
		}
	}
	_, err := s.Sample([]float32{negInf, negInf}, &Chain{}, &Counter{})
	require.ErrorIs(t, err, ErrNothingAllowed)
	_, err = s.Sample(nil, &Chain{}, &Counter{})
	require.ErrorIs(t, err, ErrNothingAllowed)
	_, err = s.Sample([]float32{1}, &Chain{Processors: []Processor{Forbid{1, []int32{0}}}}, &Counter{})
	require.ErrorIs(t, err, ErrNothingAllowed)
	_, err = s.Sample(make([]float32, MaxVocabulary+1), &Chain{}, &Counter{})
	require.ErrorContains(t, err, "2097153")
}

// TestDrawsFollowTheDistribution compares how often tokens are drawn with their
// probabilities by a float64 softmax (chi-square).
func TestDrawsFollowTheDistribution(t *testing.T) {
	row := []float32{1, 2, negInf, 0.5, 2, -1, 3, -30}
	for _, chain := range []Chain{
		{Temperature: 1},
		{Temperature: 0.5, Seed: 7, Choice: 3},
		{Temperature: 4, TopK: 4, Seed: 1 << 40},
		{Temperature: 1, TopP: 0.8, Seed: 5},
		{Temperature: 1.5, MinP: 0.2, Seed: 6},
	} {
		t.Run(chain.String(), func(t *testing.T) {
			const n = 40_000
			_, kept := slowSample(row, &chain, 0)
			observed := drawMany(t, row, chain, n)
			var mass float64
			for _, k := range kept {
				mass += math.Exp(float64(row[k]) / chain.Temperature)
			}
			var chi float64
			var total, degrees int
			for _, k := range kept {
				expected := n * math.Exp(float64(row[k])/chain.Temperature) / mass
				total += observed[k]
				if expected < 5 { // too rare for the statistic
					continue
				}
				degrees++
				chi += (float64(observed[k]) - expected) * (float64(observed[k]) - expected) / expected
			}
			require.Equal(t, n, total, "only what is kept is drawn")
			p := distuv.ChiSquared{K: float64(degrees - 1)}.Survival(chi)
			require.Greater(t, p, 1e-4, "chi-square %v with %d degrees of freedom", chi, degrees-1)
		})
	}
}

func drawMany(t *testing.T, row []float32, chain Chain, n int) []int {
	t.Helper()
	var s Sampler
	var c Counter
	observed := make([]int, len(row))
	for range n {
		token, err := s.Sample(row, &chain, &c)
		require.NoError(t, err)
		observed[token]++
		c.Add(token)
	}
	return observed
}

// TestResume draws a sequence with one counter, and again with a counter rebuilt
// before each token.
func TestResume(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		p := Params{
			Temperature: 1.2, TopP: 0.95, RepetitionPenalty: 1.3, FrequencyPenalty: 0.4, PresencePenalty: -0.2,
			LogitBias: map[int32]float64{3: 2, 1: -1}, Seed: rapid.Uint64().Draw(t, "seed"),
		}
		chain := p.Chain()
		prompt := rapid.SliceOfN(rapid.Int32Range(0, 19), 0, 8).Draw(t, "prompt")
		rowAt := func(i int) []float32 { return normalRow(uint64(i), 20) }
		var whole Sampler
		var running Counter
		running.Reset(prompt, nil)
		var output []int32
		for i := range 12 {
			want, err := whole.Sample(rowAt(i), &chain, &running)
			require.NoError(t, err)
			var fresh Sampler
			var rebuilt Counter
			rebuilt.Reset(nil, []int32{9}) // so that the next Reset is of a used counter
			rebuilt.Reset(prompt, output)
			got, err := fresh.Sample(rowAt(i), &chain, &rebuilt)
			require.NoError(t, err)
			require.Equal(t, want, got)
			running.Add(want)
			output = append(output, want)
		}
	})
}

// normalRow draws logits with a distribution similar to a model's.
func normalRow(seed uint64, n int) []float32 {
	r := rand.New(rand.NewPCG(seed, 11))
	row := make([]float32, n)
	for i := range row {
		row[i] = float32(r.NormFloat64() * 3)
	}
	return row
}

func BenchmarkSample(b *testing.B) {
	row := normalRow(1, 151_936)
	for _, p := range []Params{
		{}, {Temperature: 1}, {Temperature: 1, TopK: 50}, {Temperature: 1, TopP: 0.95},
		{Temperature: 0.7, TopK: 20, TopP: 0.8, RepetitionPenalty: 1.1}, {Temperature: 1, MinP: 0.05},
	} {
		chain := p.Chain()
		b.Run(fmt.Sprint(chain), func(b *testing.B) {
			var s Sampler
			var c Counter
			for b.Loop() {
				if _, err := s.Sample(row, &chain, &c); err != nil {
					b.Fatal(err)
				}
			}
		})
	}
}
