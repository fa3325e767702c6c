package frontend

import (
	"context"
	"io"
	"sync"

	"github.com/tandem-moe/tandem/serve"
)

// stream holds a request's events until its client takes them: at most one event
// per output token, and one without a token.
type stream struct {
	request serve.Request
	cancel  func()

	mu     sync.Mutex
	events []serve.Event
	end    error         // nil while the request runs, then io.EOF or the error that ended it
	news   chan struct{} // a signal that events or end have changed
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

// Close cancels the request if it still runs.
func (s *stream) Close() { s.cancel() }

// deliver appends a report's event, or ends the stream with its error. Reports
// after the end are dropped: a node may report on a request that was cancelled
// meanwhile.
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
