package bench

import (
	"fmt"
	"slices"
	"time"
)

// trace is a run of sequences: their output tokens, and when each appeared,
// counted from when the run began to work.
type trace struct {
	tokens [][]int32
	at     [][]time.Duration
	steps  int // of the model, over some of the sequences each
}

func newTrace(sequences int) trace {
	return trace{tokens: make([][]int32, sequences), at: make([][]time.Duration, sequences)}
}

// add notes a sequence's next token.
func (t *trace) add(sequence int, token int32, at time.Duration) {
	t.tokens[sequence] = append(t.tokens[sequence], token)
	t.at[sequence] = append(t.at[sequence], at)
}

// decoding is the time in which all sequences decode: from the last one's first
// token to the first one's last.
func (t *trace) decoding() (from, to time.Duration) {
	to = t.at[0][len(t.at[0])-1]
	for _, at := range t.at {
		from, to = max(from, at[0]), min(to, at[len(at)-1])
	}
	return from, to
}

// rates are the prompt tokens a second until every sequence has a token, and the
// output tokens a second while all of them decode.
func (t *trace) rates(promptTokens int) (prompt, decode float64, err error) {
	from, to := t.decoding()
	if to <= from {
		return 0, 0, fmt.Errorf("the first of %d sequences ended after %v, the last began to decode after %v: they never decoded together; more output tokens let them",
			len(t.at), to, from)
	}
	tokens := 0
	for _, at := range t.at {
		for _, when := range at {
			if when > from && when <= to {
				tokens++
			}
		}
	}
	return float64(promptTokens) / from.Seconds(), float64(tokens) / (to - from).Seconds(), nil
}

// intervals are the times between the first sequence's tokens while all decode:
// those of its steps.
func (t *trace) intervals() []float64 {
	from, to := t.decoding()
	var all []float64
	for i, at := range t.at[0] {
		if i > 0 && at > from && at <= to {
			all = append(all, (at - t.at[0][i-1]).Seconds())
		}
	}
	return all
}

// same compares the output tokens of two runs.
func (t *trace) same(other *trace) error {
	if len(t.tokens) != len(other.tokens) {
		return fmt.Errorf("%d sequences, direct calls had %d", len(t.tokens), len(other.tokens))
	}
	for i, tokens := range t.tokens {
		if !slices.Equal(tokens, other.tokens[i]) {
			return fmt.Errorf("sequence %d: it gave %v, direct calls %v", i, tokens, other.tokens[i])
		}
	}
	return nil
}
