package sample

import (
	"fmt"
	"math"
	"strings"
)

// Chain says how a request's tokens are chosen. It is made once per request; further
// processors may be appended, and masks such as [Forbid] may stand anywhere among
// them. The order of the steps is vLLM's:
//
//  1. the processors that may change which logit is the best: bias, repetition
//     penalty, then frequency and presence penalty;
//  2. greedy requests take the best logit;
//  3. temperature, min-p, top-k, top-p, and the draw.
//
// min-p and top-k each keep a prefix of the candidates (best first), so their order
// does not matter. Top-p comes after both and takes its share of the candidates that
// they left. Hugging Face applies min-p last, which gives other results where both
// are on. The parameter min_p comes from vLLM's API, so callers expect vLLM's order.
type Chain struct {
	Processors []Processor
	// Temperature, TopK, TopP and MinP are as in [Params].
	Temperature float64
	TopK        int
	TopP        float64
	MinP        float64
	// Seed and Choice are as in [Params].
	Seed   uint64
	Choice uint32
}

// Chain makes the chain of valid parameters.
func (p Params) Chain() Chain {
	c := Chain{
		Temperature: p.Temperature, TopK: p.TopK, TopP: p.TopP, MinP: p.MinP,
		Seed: p.Seed, Choice: p.Choice,
	}
	if len(p.LogitBias) > 0 {
		c.Processors = append(c.Processors, newLogitBias(p.LogitBias))
	}
	if p.RepetitionPenalty != 0 && p.RepetitionPenalty != 1 {
		c.Processors = append(c.Processors, RepetitionPenalty(p.RepetitionPenalty))
	}
	if p.FrequencyPenalty != 0 || p.PresencePenalty != 0 {
		c.Processors = append(c.Processors, OutputPenalty{p.FrequencyPenalty, p.PresencePenalty})
	}
	return c
}

// String prints the chain in its order.
func (c Chain) String() string {
	var w strings.Builder
	for _, p := range c.Processors {
		fmt.Fprintf(&w, "%v ", p)
	}
	if c.Temperature == 0 {
		return w.String() + "greedy"
	}
	fmt.Fprintf(&w, "temperature(%v) ", c.Temperature)
	if c.MinP > 0 {
		fmt.Fprintf(&w, "min-p(%v) ", c.MinP)
	}
	if c.TopK > 0 {
		fmt.Fprintf(&w, "top-k(%d) ", c.TopK)
	}
	if c.limitsMass() {
		fmt.Fprintf(&w, "top-p(%v) ", c.TopP)
	}
	fmt.Fprintf(&w, "draw(seed %d, choice %d)", c.Seed, c.Choice)
	return w.String()
}

func (c Chain) limitsMass() bool { return c.TopP > 0 && c.TopP < 1 }

// ParamError says that a parameter's value is invalid. Field is a field of [Params].
type ParamError struct{ Field, Reason string }

func (e *ParamError) Error() string { return e.Field + ": " + e.Reason }

// Validate checks the parameters against their bounds and a vocabulary's size. Its
// error is a *[ParamError].
func (p Params) Validate(vocabulary int) error {
	for _, f := range []struct {
		name      string
		v, lo, hi float64
	}{
		{"Temperature", p.Temperature, 0, math.MaxFloat64},
		{"TopP", p.TopP, 0, 1},
		{"MinP", p.MinP, 0, 1},
		{"RepetitionPenalty", p.RepetitionPenalty, 0, math.MaxFloat64},
		{"PresencePenalty", p.PresencePenalty, -math.MaxFloat64, math.MaxFloat64},
		{"FrequencyPenalty", p.FrequencyPenalty, -math.MaxFloat64, math.MaxFloat64},
		{"TopK", float64(p.TopK), 0, math.MaxInt64},
	} {
		if !(f.v >= f.lo && f.v <= f.hi) {
			return &ParamError{f.name, fmt.Sprintf("%v is not between %v and %v", f.v, f.lo, f.hi)}
		}
	}
	return p.validateBias(vocabulary)
}

func (p Params) validateBias(vocabulary int) error {
	for _, b := range newLogitBias(p.LogitBias) {
		if b.Token < 0 || int(b.Token) >= vocabulary {
			return &ParamError{"LogitBias", fmt.Sprintf("token %d is not in the vocabulary of %d", b.Token, vocabulary)}
		}
		if !(math.Abs(b.Add) <= math.MaxFloat64) {
			return &ParamError{"LogitBias", fmt.Sprintf("%v for token %d is not finite", b.Add, b.Token)}
		}
	}
	return nil
}
