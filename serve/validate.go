package serve

import (
	"errors"
	"fmt"
	"math"
	"slices"

	"github.com/tandem-moe/tandem/serve/sample"
)

// Validate refuses a request that can never be served within the limits. Errors:
// *InvalidError.
func (r *Request) Validate(l Limits) error {
	invalid := func(field, format string, args ...any) error {
		return &InvalidError{Field: field, Reason: fmt.Sprintf(format, args...)}
	}
	if len(r.Prompt) == 0 {
		return invalid("Prompt", "it has no tokens")
	}
	for i, id := range slices.Concat(r.Prompt, r.Output) {
		if id < 0 || int(id) >= l.Vocabulary {
			return invalid("Prompt", "token %d at place %d is not in the vocabulary of %d", id, i, l.Vocabulary)
		}
	}
	if len(r.StopIDs) > MaxStopIDs {
		return invalid("StopIDs", "%d ids, there can be %d", len(r.StopIDs), MaxStopIDs)
	}
	if len(r.Sampling.LogitBias) > MaxBiases {
		return invalid("Sampling.LogitBias", "%d tokens, there can be %d", len(r.Sampling.LogitBias), MaxBiases)
	}
	if r.MaxTokens < 0 {
		return invalid("MaxTokens", "%d is negative", r.MaxTokens)
	}
	if n := len(r.Prompt) + r.MaxTokens; n > l.MaxModelLen {
		return invalid("Prompt", "%d tokens and %d of output are more than the model's %d", len(r.Prompt), r.MaxTokens, l.MaxModelLen)
	}
	if n := len(r.Prompt) + r.MaxTokens; n > l.CacheTokens {
		return invalid("Prompt", "%d tokens and %d of output are more than the KV cache of %d tokens holds", len(r.Prompt), r.MaxTokens, l.CacheTokens)
	}
	if r.Logprobs > l.Vocabulary || r.PromptLogprobs > l.Vocabulary {
		return invalid("Logprobs", "%d candidates of a vocabulary of %d", max(r.Logprobs, r.PromptLogprobs), l.Vocabulary)
	}
	var param *sample.ParamError
	if err := r.Sampling.Validate(l.Vocabulary); errors.As(err, &param) {
		return &InvalidError{Field: "Sampling." + param.Field, Reason: param.Reason}
	}
	return nil
}

// Check refuses a log-probability that another process sent and no engine makes: of
// the token or one of its candidates, or with more than top candidates.
func (l *TokenLogprob) Check(top, vocabulary int) error {
	if len(l.Top) > top {
		return fmt.Errorf("%d candidates, %d asked for", len(l.Top), top)
	}
	for _, c := range l.Top {
		if err := c.Check(vocabulary); err != nil {
			return err
		}
	}
	return l.Logprob.Check(vocabulary)
}

// Check refuses a token outside of the vocabulary, and the values NaN and +Inf.
func (l Logprob) Check(vocabulary int) error {
	if l.Token < 0 || int(l.Token) >= vocabulary {
		return fmt.Errorf("the log-probability of token %d of a vocabulary of %d", l.Token, vocabulary)
	}
	if v := float64(l.Logprob); math.IsNaN(v) || math.IsInf(v, 1) {
		return fmt.Errorf("the log-probability %v of token %d", v, l.Token)
	}
	return nil
}
