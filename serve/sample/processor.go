package sample

import (
	"fmt"
	"math"
	"slices"
)

// Processor rewrites a row of logits in place. It is data: it can be printed, and
// keeps no state between rows. The logit −Inf masks a token, and no processor
// unmasks one. Tokens that a processor names must be in the row.
type Processor interface {
	Process(row []float32, c *Counter)
	String() string
}

// rewrite replaces a token's logit by f of it, rounded once and clamped to finite
// values. A masked token stays masked.
func rewrite(row []float32, token int32, f func(float64) float64) {
	old := row[token]
	if old < -math.MaxFloat32 {
		return
	}
	v := f(float64(old))
	row[token] = float32(min(max(v, -math.MaxFloat32), math.MaxFloat32))
}

// Bias is added to a token's logit.
type Bias struct {
	Token int32
	Add   float64
}

// LogitBias adds to the logits of some tokens, in order of their ids.
type LogitBias []Bias

// newLogitBias orders a map's tokens by id, so that they are always processed and
// printed in the same order.
func newLogitBias(m map[int32]float64) LogitBias {
	b := make(LogitBias, 0, len(m))
	for t, v := range m {
		b = append(b, Bias{t, v})
	}
	slices.SortFunc(b, func(x, y Bias) int { return int(x.Token) - int(y.Token) })
	return b
}

// Process implements [Processor].
func (b LogitBias) Process(row []float32, _ *Counter) {
	for _, e := range b {
		rewrite(row, e.Token, func(v float64) float64 { return v + e.Add })
	}
}

func (b LogitBias) String() string { return fmt.Sprintf("bias%v", []Bias(b)) }

// RepetitionPenalty divides the positive and multiplies the negative logits of
// tokens that occur in prompt or output (the CTRL paper, section 4.1).
type RepetitionPenalty float64

// Process implements [Processor].
func (p RepetitionPenalty) Process(row []float32, c *Counter) {
	for _, e := range c.entries {
		rewrite(row, e.token, func(v float64) float64 {
			if v > 0 {
				return v / float64(p)
			}
			return float64(v * float64(p))
		})
	}
}

func (p RepetitionPenalty) String() string { return fmt.Sprintf("repetition(%v)", float64(p)) }

// OutputPenalty subtracts OpenAI's penalties from the logits of tokens in the
// output: Frequency for each time that a token occurs, and Presence once.
type OutputPenalty struct{ Frequency, Presence float64 }

// Process implements [Processor].
func (p OutputPenalty) Process(row []float32, c *Counter) {
	for _, e := range c.entries {
		if e.output == 0 {
			continue
		}
		rewrite(row, e.token, func(v float64) float64 {
			return v - float64(p.Frequency*float64(e.output)) - p.Presence
		})
	}
}

func (p OutputPenalty) String() string {
	return fmt.Sprintf("output(frequency %v, presence %v)", p.Frequency, p.Presence)
}

// Forbid masks tokens while the output is shorter than Until tokens. A request's
// minimum number of tokens is a Forbid of its stop ids.
type Forbid struct {
	Until  int
	Tokens []int32
}

// Process implements [Processor].
func (f Forbid) Process(row []float32, c *Counter) {
	if c.Outputs() >= f.Until {
		return
	}
	for _, t := range f.Tokens {
		row[t] = float32(math.Inf(-1))
	}
}

func (f Forbid) String() string { return fmt.Sprintf("forbid%v until %d", f.Tokens, f.Until) }
