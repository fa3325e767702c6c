package sample

import (
	"math"
	"testing"

	"github.com/stretchr/testify/require"
	"pgregory.net/rapid"
)

func TestProcessors(t *testing.T) {
	var c Counter
	c.Reset([]int32{0, 1}, []int32{1, 2, 1})
	for _, v := range []struct {
		p    Processor
		want []float32
	}{
		{LogitBias{{0, 1.5}, {3, -1}, {4, 100}}, []float32{5.5, -2, 2, 0, negInf}},
		{RepetitionPenalty(2), []float32{2, -4, 1, 1, negInf}},
		{OutputPenalty{Frequency: 0.5}, []float32{4, -3, 1.5, 1, negInf}},
		{OutputPenalty{Presence: 3}, []float32{4, -5, -1, 1, negInf}},
		{Forbid{Until: 4, Tokens: []int32{1}}, []float32{4, negInf, 2, 1, negInf}},
		{Forbid{Until: 3, Tokens: []int32{1}}, []float32{4, -2, 2, 1, negInf}},
	} {
		row := []float32{4, -2, 2, 1, negInf}
		v.p.Process(row, &c)
		require.Equal(t, v.want, row, "%v", v.p)
	}
}

func TestProcessorsStayFinite(t *testing.T) {
	var c Counter
	c.Reset(nil, []int32{0, 1})
	row := []float32{3e38, -3e38}
	for _, p := range []Processor{RepetitionPenalty(1e-300), LogitBias{{0, 1e308}, {1, -1e308}}, OutputPenalty{1e308, 1e308}} {
		p.Process(row, &c)
		for _, v := range row {
			require.LessOrEqual(t, math.Abs(float64(v)), math.MaxFloat32, "%v", p)
		}
	}
}

func TestChain(t *testing.T) {
	require.Equal(t, "greedy", Params{RepetitionPenalty: 1, TopP: 1}.Chain().String())
	p := Params{
		Temperature: 0.7, TopK: 20, TopP: 0.8, MinP: 0.05, RepetitionPenalty: 1.1, PresencePenalty: 0.5,
		LogitBias: map[int32]float64{9: -100, 2: 1}, Seed: 4, Choice: 1,
	}
	require.NoError(t, p.Validate(10))
	require.Equal(t, "bias[{2 1} {9 -100}] repetition(1.1) output(frequency 0, presence 0.5) temperature(0.7) "+
		"min-p(0.05) top-k(20) top-p(0.8) draw(seed 4, choice 1)", p.Chain().String())
}

func TestValidateNamesTheField(t *testing.T) {
	nan := math.NaN()
	for field, p := range map[string]Params{
		"Temperature":       {Temperature: -1},
		"TopK":              {TopK: -1},
		"TopP":              {TopP: 1.5},
		"MinP":              {MinP: nan},
		"RepetitionPenalty": {RepetitionPenalty: -2},
		"PresencePenalty":   {PresencePenalty: math.Inf(1)},
		"FrequencyPenalty":  {FrequencyPenalty: nan},
		"LogitBias":         {LogitBias: map[int32]float64{10: 1}},
	} {
		var e *ParamError
		require.ErrorAs(t, p.Validate(10), &e)
		require.Equal(t, field, e.Field)
	}
	require.Error(t, Params{LogitBias: map[int32]float64{1: nan}}.Validate(10))
	require.Error(t, Params{LogitBias: map[int32]float64{-1: 1}}.Validate(10))
}

func TestTop(t *testing.T) {
	var s Sampler
	rapid.Check(t, func(t *rapid.T) {
		row := rows(t)
		n := rapid.IntRange(0, len(row)+2).Draw(t, "n")
		want := sortedCandidates(row)[:min(n, len(row))]
		got := s.Top(nil, row, n)
		require.Len(t, got, len(want))
		for i := range got {
			require.Equal(t, want[i].Token, got[i].Token)
			require.True(t, want[i].Logit == got[i].Logit)
		}
	})
}

func TestKeysKeepTheLogit(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		v := rapid.Float32().Draw(t, "logit")
		id := rapid.Int32Min(0).Draw(t, "id")
		k := keyOf(v, int(id))
		require.True(t, logitOf(k) == v)
		require.Equal(t, id, tokenOf(k))
	})
}
