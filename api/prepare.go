package api

import (
	"context"
	"net/http"
	"runtime"

	"golang.org/x/sync/semaphore"
)

// smallBody is what is prepared at once, whatever larger bodies are waiting.
const smallBody = 64 << 10

// desk is where requests are prepared: parsed, rendered and tokenized. As many as
// there are processors are at it at a time, so that many large ones take neither
// all processors nor all memory; one place is kept free of bodies larger than
// smallBody. Who waits is served in the order of coming, and leaves with its
// context.
type desk struct {
	places *semaphore.Weighted
	// large are the places for larger bodies, and bytes the sum of those. To
	// tokenize takes some fifty times the memory of the text.
	large, bytes *semaphore.Weighted
	most         int64
}

// newDesk makes a desk for bodies of up to so many bytes; two of the largest are
// prepared at once.
func newDesk(body int64) *desk {
	n := int64(runtime.GOMAXPROCS(0))
	return &desk{
		places: semaphore.NewWeighted(n), large: semaphore.NewWeighted(max(n-1, 1)),
		bytes: semaphore.NewWeighted(2 * body), most: 2 * body,
	}
}

// enter waits for a place for a body of n bytes. The caller leaves.
func (d *desk) enter(ctx context.Context, n int64) (leave func(), err error) {
	var held []func()
	leave = func() {
		for _, release := range held {
			release()
		}
	}
	take := func(s *semaphore.Weighted, n int64) {
		if err == nil {
			if err = s.Acquire(ctx, n); err == nil {
				held = append(held, func() { s.Release(n) })
			}
		}
	}
	if n > smallBody {
		take(d.large, 1)
		take(d.bytes, min(n, d.most))
	}
	take(d.places, 1)
	if err != nil {
		leave()
		return nil, err
	}
	return leave, nil
}

// prepared reads a request's JSON and makes of it what the server needs. The
// body's share of memory is held until that is done; what the request returns may
// not be parts of the body that outlive it by much.
func prepared[T, P any](s *Server, w http.ResponseWriter, r *http.Request, parse func(*Parser, []byte) (T, error), prepare func(context.Context, T) (P, error)) (out P, err error) {
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
	leave, err := s.desk.enter(ctx, int64(len(data)))
	if err != nil {
		return out, why(ctx, err)
	}
	defer leave()
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
