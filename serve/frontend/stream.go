package frontend

import (
	"context"
	"io"
	"sync"

	"github.com/tandem-moe/tandem/serve"
)

// stream holds a request's events until its client takes them: at most as many
// as its output has tokens.
type stream struct {
	request serve.Request
	cancel  func()

	mu     sync.Mutex
	events []serve.Event
	end    error // io.EOF, or what ended the request
	news   chan struct{}
}

func newStream(r serve.Request, cancel func()) *stream {
	return &stream{request: r, cancel: cancel, news: make(chan struct{}, 1)}
}

// Next waits for the next event.
func (s *stream) Next(ctx context.Context) (serve.Event, error) {
	for {
		if e, ok, err := s.take(); ok || err != nil {
			return e, err
		}
		select {
		case <-s.news:
		case <-ctx.Done():
			return serve.Event{}, ctx.Err()
		}
	}
}

func (s *stream) take() (serve.Event, bool, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if len(s.events) > 0 {
		e := s.events[0]
		s.events = s.events[1:]
		return e, true, nil
	}
	return serve.Event{}, false, s.end
}

// Close cancels the request where it still runs.
func (s *stream) Close() { s.cancel() }

// deliver appends what a report brings. Events after the end are dropped: a node
// may report a request that was cancelled meanwhile.
func (s *stream) deliver(r serve.Report) {
	s.mu.Lock()
	defer s.mu.Unlock()
	switch {
	case s.end != nil:
		return
	case r.Err != nil:
		s.end = r.Err
	default:
		s.events = append(s.events, r.Event)
		if r.Event.Finish != "" {
			s.end = io.EOF
		}
	}
	select {
	case s.news <- struct{}{}:
	default:
	}
}
