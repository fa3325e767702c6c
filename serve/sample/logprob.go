package sample

import (
	"math"
	"slices"
)

// Candidate is a token and its logit.
type Candidate struct {
	Token int32
	Logit float32
}

// Logprob is the natural logarithm of a token's probability. logSumExp is the
// logarithm of the sum of the exponentials of the row's raw logits.
func Logprob(logit, logSumExp float32) float32 { return logit - logSumExp }

// Top appends to dst the n best candidates of a row of raw logits (all of them, if
// there are fewer), best first, those with equal logits by rising id. No logit may
// be NaN.
func (s *Sampler) Top(dst []Candidate, logits []float32, n int) []Candidate {
	if n <= 0 {
		return dst
	}
	s.gather(logits, math.Inf(-1))
	if n < len(s.keys) {
		s.truncate(s.selector.cut(s.keys, nil, uint64(n)))
	}
	slices.Sort(s.keys)
	for _, k := range s.keys {
		dst = append(dst, Candidate{tokenOf(k), logitOf(k)})
	}
	return dst
}
