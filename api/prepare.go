package api

import (
	"context"
	"net/http"
)

// prepared reads a request's JSON and makes of it what the server needs. The
// body's share of memory is held until that is done; what the request returns may
// not be parts of the body that outlive it by much.
func prepared[T, P any](s *Server, w http.ResponseWriter, r *http.Request, parse func(*Parser, []byte) (T, error),
	prepare func(context.Context, T) (P, error)) (out P, err error) {
	lease := &lease{budget: s.bodies}
	defer lease.end()
	data, err := s.body(w, r, lease)
	if err != nil {
		return out, err
	}
	if err := lease.take(int64(len(data))); err != nil { // for the text that is decoded from it
		return out, err
	}
	ctx := r.Context()
	release, err := s.preparing.acquire(ctx, int64(len(data)))
	if err != nil {
		return out, why(ctx, err)
	}
	defer release()
	parser := &Parser{Strict: s.cfg.Strict, MaxStops: s.cfg.Limits.Stops}
	request, err := parse(parser, data)
	s.warn(w, r, parser.Warnings())
	if err != nil {
		return out, err
	}
	return prepare(ctx, request)
}

// encode turns text into ids. What the tokenizer refuses is the client's to
// change.
func (s *Server) encode(ctx context.Context, text string, special bool) ([]int32, error) {
	ids, err := s.cfg.Service.Tokenizer().Encode(ctx, text, special)
	if err != nil && ctx.Err() != nil {
		return nil, why(ctx, err)
	}
	if err != nil {
		return nil, invalid("prompt", "the prompt cannot be tokenized: %v", err)
	}
	return ids, nil
}

// encodeFitting is encode for a prompt. One that is too long for the model,
// whatever it says, is refused before it is tokenized, unless it is to be cut. A
// short one is tokenized all the same, to tell how many tokens are too many.
func (s *Server) encodeFitting(ctx context.Context, r *Sampling, text string, special bool) ([]int32, error) {
	if len(text) > smallBody && r.Truncate == nil {
		if err := s.cfg.Service.CheckLength(text); err != nil {
			return nil, err
		}
	}
	return s.encode(ctx, text, special)
}
