package api

import (
	"context"
	"runtime"

	"golang.org/x/sync/semaphore"
)

// smallBody is what is prepared at once, whatever larger bodies are waiting.
const smallBody = 64 << 10

// limiter bounds how many requests are prepared at a time: parsed, rendered and
// tokenized. They are as many as there are processors, so that many large ones take
// neither all processors nor all memory; where there are several, one is kept free of
// bodies larger than smallBody. Requests wait in the order in which they came, and
// no longer than their context.
type limiter struct {
	all *semaphore.Weighted
	// large bounds the number of larger bodies, and bytes their sum. To tokenize takes
	// some fifty times the memory of the text.
	large, bytes *semaphore.Weighted
	maxBytes     int64
}

// newLimiter makes a limiter for bodies of up to so many bytes; two of the largest
// are prepared at once.
func newLimiter(body int64) *limiter {
	n := int64(runtime.GOMAXPROCS(0))
	return &limiter{
		all: semaphore.NewWeighted(n), large: semaphore.NewWeighted(max(n-1, 1)),
		bytes: semaphore.NewWeighted(2 * body), maxBytes: 2 * body,
	}
}

// acquire waits until a body of n bytes may be prepared. The caller calls release
// when it has been.
func (l *limiter) acquire(ctx context.Context, n int64) (release func(), err error) {
	var held []func()
	release = func() {
		for _, end := range held {
			end()
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
		take(l.large, 1)
		take(l.bytes, min(n, l.maxBytes))
	}
	take(l.all, 1)
	if err != nil {
		release()
		return nil, err
	}
	return release, nil
}
