// Package enginetest is an engine without a model, for tests of packages that use an
// engine: its tokens are scripted, and it fails on demand. It may not know text,
// except for its tokenizer of bytes.
package enginetest

import (
	"context"
	"fmt"
	"io"
	"slices"
	"sync"
	"time"

	"github.com/tandem-moe/tandem/serve"
)

// Fault makes an engine fail.
type Fault struct {
	// Submit is the error that Engine.Submit returns.
	Submit error
	// After is how many output tokens a stream gives before it fails with Err or,
	// where Err is nil and Hang is set, gives nothing more.
	After int
	Err   error
	Hang  bool
}

// Engine is a fake serve.Engine. Its fields are set before use.
type Engine struct {
	// Bounds are what Limits returns.
	Bounds serve.Limits
	// Script returns a request's output, which its limits and stop ids cut and which
	// repeats where it is too short. Nil means Sample.
	Script func(serve.Request) []int32
	// Delay is the wait before each token.
	Delay time.Duration
	// Queue bounds the requests that run at a time; 0 means no bound.
	Queue int

	mu       sync.Mutex
	fault    Fault
	requests []serve.Request
	open     map[*stream]bool
	closed   int
}

var _ serve.Engine = (*Engine)(nil)

// New returns an engine with a byte vocabulary and a context of 512 tokens.
func New() *Engine {
	return &Engine{Bounds: serve.Limits{Vocabulary: Vocabulary, MaxModelLen: 512, CacheTokens: 4096}}
}

// Break makes later requests fail by f; the zero Fault repairs the engine.
func (e *Engine) Break(f Fault) {
	e.mu.Lock()
	defer e.mu.Unlock()
	e.fault = f
}

// Requests returns the requests submitted so far.
func (e *Engine) Requests() []serve.Request {
	e.mu.Lock()
	defer e.mu.Unlock()
	return slices.Clone(e.requests)
}

// Running is how many requests are unfinished and not closed.
func (e *Engine) Running() int {
	e.mu.Lock()
	defer e.mu.Unlock()
	return len(e.open)
}

// Cancelled is how many requests were closed before their end.
func (e *Engine) Cancelled() int {
	e.mu.Lock()
	defer e.mu.Unlock()
	return e.closed
}

// Limits implements serve.Engine.
func (e *Engine) Limits() serve.Limits { return e.Bounds }

// Submit implements serve.Engine.
func (e *Engine) Submit(ctx context.Context, r serve.Request) (serve.Stream, error) {
	if err := e.validate(r); err != nil {
		return nil, err
	}
	e.mu.Lock()
	defer e.mu.Unlock()
	if e.fault.Submit != nil {
		return nil, e.fault.Submit
	}
	if e.Queue > 0 && len(e.open) >= e.Queue {
		return nil, &serve.BusyError{Waiting: len(e.open), Limit: e.Queue}
	}
	e.requests = append(e.requests, r)
	s := &stream{engine: e, request: r, fault: e.fault, script: e.script(r), stop: make(chan struct{})}
	if e.open == nil {
		e.open = map[*stream]bool{}
	}
	e.open[s] = true
	return s, nil
}

func (e *Engine) validate(r serve.Request) error {
	if len(r.Prompt) == 0 {
		return &serve.InvalidError{Field: "Prompt", Reason: "it has no tokens"}
	}
	if n := len(r.Prompt) + r.MaxTokens; n > e.Bounds.MaxModelLen {
		return &serve.InvalidError{Field: "Prompt", Reason: fmt.Sprintf("%d tokens do not fit in %d", n, e.Bounds.MaxModelLen)}
	}
	return nil
}

func (e *Engine) script(r serve.Request) []int32 {
	if e.Script != nil {
		return e.Script(r)
	}
	return Sample(r)
}

func (e *Engine) leave(s *stream, cancelled bool) {
	e.mu.Lock()
	defer e.mu.Unlock()
	if e.open[s] && cancelled {
		e.closed++
	}
	delete(e.open, s)
}

// stream plays a script.
type stream struct {
	engine  *Engine
	request serve.Request
	fault   Fault
	script  []int32
	at      int
	ended   bool

	once sync.Once
	stop chan struct{}
}

// Close implements serve.Stream.
func (s *stream) Close() {
	s.once.Do(func() { close(s.stop) })
	s.engine.leave(s, true)
}

// Next implements serve.Stream.
func (s *stream) Next(ctx context.Context) (serve.Event, error) {
	if s.ended {
		return serve.Event{}, io.EOF
	}
	if err := s.wait(ctx); err != nil {
		return serve.Event{}, err
	}
	event := s.event()
	if event.Finish != "" {
		s.ended = true
		s.engine.leave(s, false)
	}
	return event, nil
}

// wait waits for the engine's Delay, and fails or hangs as the fault says.
func (s *stream) wait(ctx context.Context) error {
	due := time.After(s.engine.Delay)
	if s.at >= s.fault.After {
		if s.fault.Err != nil {
			s.engine.leave(s, false)
			return s.fault.Err
		}
		if s.fault.Hang {
			due = nil
		}
	}
	select {
	case <-ctx.Done():
		return ctx.Err()
	case <-s.stop:
		return context.Canceled
	case <-due:
		return nil
	}
}

func (s *stream) event() serve.Event {
	r := s.request
	var e serve.Event
	if s.at == 0 && r.PromptLogprobs >= 0 {
		e.Prompt = promptLogprobs(r.Prompt, r.PromptLogprobs)
	}
	if s.at == 0 && r.PromptLogprobs < 0 {
		e.CachedTokens = (len(r.Prompt) - 1) / 16 * 16
	}
	if r.MaxTokens == 0 {
		e.Finish = serve.FinishLength
		return e
	}
	e.HasToken, e.Index, e.Token = true, s.at, s.script[s.at%len(s.script)]
	if r.Logprobs >= 0 {
		lp := tokenLogprob(e.Token, len(r.Prompt)+s.at, r.Logprobs)
		e.Logprob = &lp
	}
	s.at++
	switch {
	case s.at > r.MinTokens && slices.Contains(r.StopIDs, e.Token):
		e.Finish = serve.FinishStop
	case s.at == r.MaxTokens:
		e.Finish = serve.FinishLength
	}
	return e
}
