package completion

import (
	"context"
	"errors"
	"fmt"
	"io"

	"github.com/tandem-moe/tandem/serve"
)

// sequence is one choice of one prompt: an engine's stream and its decoder.
type sequence struct {
	request        serve.Request
	prompt, choice int
	skipSpecial    bool
	tokenizer      Tokenizer
	decoder        *decoder

	stream   serve.Stream
	observer SequenceObserver
	started  bool
	// cached and evaluated are from the first event, and are kept for the first delta.
	cached    int
	evaluated []Token
}

// trivial says that the engine has nothing to compute.
func (s *sequence) trivial() bool {
	return s.request.MaxTokens == 0 && s.request.PromptLogprobs < 0
}

// submit hands the sequence to the engine.
func (s *sequence) submit(ctx context.Context, engine serve.Engine, observe func(int) SequenceObserver) error {
	if s.trivial() {
		s.stream = evaluated{}
	} else {
		stream, err := engine.Submit(ctx, s.request)
		if err != nil {
			return err
		}
		s.stream = stream
	}
	s.observer = observe(len(s.request.Prompt))
	return nil
}

// next returns the next delta that has text or ends the sequence, and io.EOF after the
// last one.
func (s *sequence) next(ctx context.Context) (Delta, error) {
	for !s.decoder.done {
		e, err := s.stream.Next(ctx)
		if err != nil {
			return Delta{}, s.fail(err)
		}
		s.begin(e)
		if delta, ok := s.decoder.event(e); ok {
			return s.finish(delta), nil
		}
	}
	return Delta{}, io.EOF
}

// begin keeps what only the first event has, and tells the observer of a token.
func (s *sequence) begin(e serve.Event) {
	if !s.started {
		s.started = true
		s.cached = e.CachedTokens
	}
	if e.Prompt != nil {
		s.evaluated = promptTokens(s.tokenizer, s.request.Prompt, e.Prompt, s.skipSpecial)
	}
	if e.HasToken {
		s.observer.Token(e.CachedTokens)
	}
}

func (s *sequence) finish(d Delta) Delta {
	d.Prompt, d.Choice = s.prompt, s.choice
	d.CachedTokens, d.PromptTokens = s.cached, s.evaluated
	s.cached, s.evaluated = 0, nil
	if s.decoder.done {
		s.stream.Close()
		s.end(string(d.Finish))
	}
	return d
}

// fail ends the sequence with an error. The error that it returns never wraps io.EOF,
// which would look like a regular end.
func (s *sequence) fail(err error) error {
	if errors.Is(err, io.EOF) {
		err = fmt.Errorf("the engine broke the output off (%v): %w", err, io.ErrUnexpectedEOF)
	}
	reason := EndError
	if errors.Is(err, context.Canceled) {
		reason = EndAbort
	}
	s.stream.Close()
	s.end(reason)
	return err
}

// close cancels the sequence if it still runs.
func (s *sequence) close() {
	if s.stream != nil {
		s.stream.Close()
		s.end(EndAbort)
	}
}

func (s *sequence) end(reason string) {
	if s.observer != nil {
		s.observer.End(reason)
		s.observer = nil
	}
}

// evaluated is the stream of a trivial sequence: it ends at once.
type evaluated struct{}

func (evaluated) Next(context.Context) (serve.Event, error) {
	return serve.Event{Finish: serve.FinishLength}, nil
}

func (evaluated) Close() {}
