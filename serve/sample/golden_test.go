package sample

import (
	"fmt"
	"math"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/tandem-moe/tandem/internal/golden"
)

// goldenRow makes logits from integers alone: multiples of 2⁻²⁰ between −16 and
// 16, every 50th masked.
func goldenRow(seed uint64, n int) []float32 {
	row := make([]float32, n)
	for i := range row {
		row[i] = float32(int32(random64(seed, 99, uint64(i))>>39)-1<<24) / (1 << 20)
		if i%50 == 49 {
			row[i] = negInf
		}
	}
	return row
}

// TestGoldenBits compares tokens, weights and log-probabilities with bits recorded on
// amd64: every architecture must compute the same.
func TestGoldenBits(t *testing.T) {
	var out strings.Builder
	for _, p := range []Params{
		{},
		{Temperature: 1, Seed: 1},
		{Temperature: 0.3, Seed: 2, Choice: 1},
		{Temperature: 7, TopK: 40, Seed: 1 << 63},
		{Temperature: 3, TopP: 0.9, Seed: 4},
		{Temperature: 2.5, MinP: 0.1, Seed: 5},
		{Temperature: 4, TopK: 300, TopP: 0.95, MinP: 0.01, Seed: 6, RepetitionPenalty: 1.2},
		{Temperature: 4, TopP: 0.8, Seed: 7, FrequencyPenalty: 0.7, PresencePenalty: 0.3, LogitBias: map[int32]float64{5: 0.1, 7: -3}},
	} {
		goldenSequence(t, &out, p)
	}
	goldenLogprobs(&out)
	golden.File(t, "golden_bits.txt", out.String())
}

// goldenSequence draws eight tokens, and prints each with a hash of the candidates and
// weights that it was drawn from.
func goldenSequence(t *testing.T, out *strings.Builder, p Params) {
	chain := p.Chain()
	fmt.Fprintf(out, "# %v\n", chain)
	var s Sampler
	var c Counter
	c.Reset([]int32{1, 2, 3}, nil)
	for i := range 8 {
		token, err := s.Sample(goldenRow(uint64(i/4), 2000), &chain, &c)
		require.NoError(t, err)
		fmt.Fprintf(out, "token %d of %d candidates, %016x\n", token, len(s.keys), hash(s.keys, s.weights))
		c.Add(token)
	}
}

// hash is FNV-1a over words.
func hash(lists ...[]uint64) uint64 {
	h := uint64(0xcbf29ce484222325)
	for _, list := range lists {
		for _, v := range list {
			h = (h ^ v) * 0x100000001b3
		}
	}
	return h
}

func goldenLogprobs(out *strings.Builder) {
	var s Sampler
	for seed := range uint64(3) {
		const logSumExp = 19.375
		for _, c := range s.Top(nil, goldenRow(seed, 2000), 4) {
			fmt.Fprintf(out, "top %d %08x\n", c.Token, math.Float32bits(Logprob(c.Logit, logSumExp)))
		}
	}
}
