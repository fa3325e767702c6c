package remote

import (
	"errors"

	"github.com/tandem-moe/tandem/internal/tandemv1"
	"github.com/tandem-moe/tandem/serve"
	"github.com/tandem-moe/tandem/serve/sample"
)

func offerToProto(o serve.Offer) *tandemv1.Offer {
	return &tandemv1.Offer{Node: o.Node, Epoch: o.Epoch, Limits: &tandemv1.Limits{
		Vocabulary: int64(o.Vocabulary), MaxModelLen: int64(o.MaxModelLen), CacheTokens: int64(o.CacheTokens),
		PageTokens: int64(o.PageTokens), MaxNumSeqs: int64(o.MaxNumSeqs), MaxBatchedTokens: int64(o.MaxBatchedTokens),
	}}
}

func offerFromProto(p *tandemv1.Offer) serve.Offer {
	l := p.GetLimits()
	return serve.Offer{
		Node: p.GetNode(), Epoch: p.GetEpoch(),
		Limits: serve.Limits{
			Vocabulary: int(l.GetVocabulary()), MaxModelLen: int(l.GetMaxModelLen()), CacheTokens: int(l.GetCacheTokens()),
		},
		PageTokens: int(l.GetPageTokens()), MaxNumSeqs: int(l.GetMaxNumSeqs()), MaxBatchedTokens: int(l.GetMaxBatchedTokens()),
	}
}

func requestToProto(r serve.Request) *tandemv1.Request {
	return &tandemv1.Request{
		Id: r.ID, Prompt: r.Prompt, Output: r.Output,
		MaxTokens: int64(r.MaxTokens), MinTokens: int64(r.MinTokens), StopIds: r.StopIDs,
		Sampling: samplingToProto(r.Sampling),
		Logprobs: int64(r.Logprobs), PromptLogprobs: int64(r.PromptLogprobs),
	}
}

func requestFromProto(p *tandemv1.Request) serve.Request {
	return serve.Request{
		ID: p.GetId(), Prompt: p.GetPrompt(), Output: p.GetOutput(),
		MaxTokens: int(p.GetMaxTokens()), MinTokens: int(p.GetMinTokens()), StopIDs: p.GetStopIds(),
		Sampling: samplingFromProto(p.GetSampling()),
		Logprobs: int(p.GetLogprobs()), PromptLogprobs: int(p.GetPromptLogprobs()),
	}
}

func samplingToProto(s sample.Params) *tandemv1.Sampling {
	return &tandemv1.Sampling{
		Temperature: s.Temperature, TopK: int64(s.TopK), TopP: s.TopP, MinP: s.MinP,
		RepetitionPenalty: s.RepetitionPenalty, PresencePenalty: s.PresencePenalty, FrequencyPenalty: s.FrequencyPenalty,
		LogitBias: s.LogitBias, Seed: s.Seed, Choice: s.Choice,
	}
}

func samplingFromProto(p *tandemv1.Sampling) sample.Params {
	return sample.Params{
		Temperature: p.GetTemperature(), TopK: int(p.GetTopK()), TopP: p.GetTopP(), MinP: p.GetMinP(),
		RepetitionPenalty: p.GetRepetitionPenalty(), PresencePenalty: p.GetPresencePenalty(), FrequencyPenalty: p.GetFrequencyPenalty(),
		LogitBias: p.GetLogitBias(), Seed: p.GetSeed(), Choice: p.GetChoice(),
	}
}

func reportToProto(r serve.Report) *tandemv1.Event {
	e := r.Event
	p := &tandemv1.Event{
		Id: r.ID, More: r.More, HasToken: e.HasToken, Token: e.Token, Index: int64(e.Index),
		CachedTokens: int64(e.CachedTokens), Finish: string(e.Finish), Failure: failureToProto(r.Err),
	}
	if e.Logprob != nil {
		p.Logprob = logprobToProto(*e.Logprob)
	}
	for _, l := range e.Prompt {
		p.Prompt = append(p.Prompt, logprobToProto(l))
	}
	return p
}

func reportFromProto(p *tandemv1.Event) serve.Report {
	r := serve.Report{ID: p.GetId(), More: p.GetMore(), Err: failureFromProto(p.GetFailure()), Event: serve.Event{
		HasToken: p.GetHasToken(), Token: p.GetToken(), Index: int(p.GetIndex()),
		CachedTokens: int(p.GetCachedTokens()), Finish: serve.FinishReason(p.GetFinish()),
	}}
	if l := p.GetLogprob(); l != nil {
		t := logprobFromProto(l)
		r.Event.Logprob = &t
	}
	for _, l := range p.GetPrompt() {
		r.Event.Prompt = append(r.Event.Prompt, logprobFromProto(l))
	}
	return r
}

func logprobToProto(l serve.TokenLogprob) *tandemv1.TokenLogprob {
	p := &tandemv1.TokenLogprob{Token: l.Token, Logprob: l.Logprob.Logprob}
	for _, c := range l.Top {
		p.Top = append(p.Top, &tandemv1.Candidate{Token: c.Token, Logprob: c.Logprob})
	}
	return p
}

func logprobFromProto(p *tandemv1.TokenLogprob) serve.TokenLogprob {
	l := serve.TokenLogprob{Logprob: serve.Logprob{Token: p.GetToken(), Logprob: p.GetLogprob()}}
	for _, c := range p.GetTop() {
		l.Top = append(l.Top, serve.Logprob{Token: c.GetToken(), Logprob: c.GetLogprob()})
	}
	return l
}

func failureToProto(err error) *tandemv1.Failure {
	if err == nil {
		return nil
	}
	var invalid *serve.InvalidError
	var busy *serve.BusyError
	var unavailable *serve.UnavailableError
	switch {
	case errors.As(err, &invalid):
		return &tandemv1.Failure{Kind: tandemv1.Failure_KIND_INVALID, Field: invalid.Field, Reason: clipped(invalid.Reason)}
	case errors.As(err, &busy):
		return &tandemv1.Failure{Kind: tandemv1.Failure_KIND_BUSY, Waiting: int64(busy.Waiting), Limit: int64(busy.Limit)}
	case errors.As(err, &unavailable):
		return &tandemv1.Failure{Kind: tandemv1.Failure_KIND_UNAVAILABLE, Reason: clipped(unavailable.Reason)}
	case errors.Is(err, serve.ErrNotFinite):
		return &tandemv1.Failure{Kind: tandemv1.Failure_KIND_NOT_FINITE}
	}
	return &tandemv1.Failure{Kind: tandemv1.Failure_KIND_INTERNAL, Reason: clipped(err.Error())}
}

func failureFromProto(p *tandemv1.Failure) error {
	if p == nil {
		return nil
	}
	switch p.GetKind() {
	case tandemv1.Failure_KIND_INVALID:
		return &serve.InvalidError{Field: p.GetField(), Reason: p.GetReason()}
	case tandemv1.Failure_KIND_BUSY:
		return &serve.BusyError{Waiting: int(p.GetWaiting()), Limit: int(p.GetLimit())}
	case tandemv1.Failure_KIND_UNAVAILABLE:
		return &serve.UnavailableError{Reason: p.GetReason()}
	case tandemv1.Failure_KIND_NOT_FINITE:
		return serve.ErrNotFinite
	}
	return errors.New(p.GetReason())
}
