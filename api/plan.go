package api

import (
	"context"
	"math"

	"github.com/tandem-moe/tandem/serve/completion"
	"github.com/tandem-moe/tandem/serve/sample"
)

// sampling is what a request says of sampling, over what the checkpoint says,
// over OpenAI's defaults.
func (s *Server) sampling(r *Sampling) (sample.Params, error) {
	d := s.cfg.Defaults
	if d.DoSample != nil && !*d.DoSample {
		d.Temperature = new(float64) // greedy
	}
	p := sample.Params{
		Temperature:       first(1, r.Temperature, d.Temperature),
		TopK:              max(0, first(0, r.TopK, d.TopK)),
		TopP:              first(1, r.TopP, d.TopP),
		MinP:              first(0, r.MinP, d.MinP),
		RepetitionPenalty: first(1, r.RepetitionPenalty, d.RepetitionPenalty),
		PresencePenalty:   first(0, r.PresencePenalty),
		FrequencyPenalty:  first(0, r.FrequencyPenalty),
		Seed:              uint64(first(0, r.Seed)),
	}
	if p.TopP == 0 {
		// sample.Params means "all" by 0; OpenAI means the best alone.
		p.TopP = math.SmallestNonzeroFloat64
	}
	vocabulary := s.cfg.Service.Limits().Vocabulary
	for id, bias := range r.LogitBias {
		if id >= vocabulary {
			return p, invalid("logit_bias", "logit_bias: token id %d is outside the vocabulary of %d", id, vocabulary)
		}
		if p.LogitBias == nil {
			p.LogitBias = make(map[int32]float64, len(r.LogitBias))
		}
		p.LogitBias[int32(id)] = bias
	}
	return p, s.checkIDs("stop_token_ids", r.StopTokenIDs)
}

// first is the first value that is given.
func first[T any](otherwise T, values ...*T) T {
	for _, v := range values {
		if v != nil {
			return *v
		}
	}
	return otherwise
}

// base is what both kinds of request ask of the service.
func (s *Server) base(r *Sampling) (completion.Request, error) {
	sampling, err := s.sampling(r)
	return completion.Request{
		N: r.choices(), MinTokens: r.MinTokens,
		Stop: r.Stop, StopIDs: r.StopTokenIDs, IgnoreEOS: r.IgnoreEOS,
		IncludeStop: r.IncludeStopStr, SkipSpecial: first(true, r.SkipSpecialTokens),
		Sampling: sampling, Seeded: r.Seed != nil,
		Logprobs: -1, PromptLogprobs: -1,
	}, err
}

// why is the reason that a context ended, where it has: a client that left, the
// deadline, or a server that shuts down; else err.
func why(ctx context.Context, err error) error {
	if ctx.Err() != nil {
		return context.Cause(ctx)
	}
	return err
}
