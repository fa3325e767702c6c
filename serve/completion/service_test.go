package completion_test

import (
	"context"
	"errors"
	"fmt"
	"io"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"
	"go.uber.org/goleak"

	"github.com/tandem-moe/tandem/serve"
	"github.com/tandem-moe/tandem/serve/completion"
	"github.com/tandem-moe/tandem/serve/completion/enginetest"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

func service(e *enginetest.Engine) *completion.Service {
	return completion.New(completion.Config{Engine: e, Tokenizer: enginetest.Tokenizer{}, EOS: []int32{enginetest.EOS}})
}

// complete runs a request to its end.
func complete(t *testing.T, s *completion.Service, r completion.Request) []completion.Delta {
	t.Helper()
	run, err := s.Start(t.Context(), r)
	require.NoError(t, err)
	defer run.Close()
	choices, err := completion.Collect(run)
	require.NoError(t, err)
	return choices
}

func texts(choices []completion.Delta) []string {
	out := make([]string, len(choices))
	for i, c := range choices {
		out[i] = c.Text
	}
	return out
}

// sampled returns a request with n choices for several prompts.
func sampled(prompts, n int) completion.Request {
	r := asked("p")
	for i := 1; i < prompts; i++ {
		r.Prompts = append(r.Prompts, enginetest.Bytes(fmt.Sprintf("prompt %d", i)))
	}
	r.N, r.MaxTokens = n, 12
	r.Sampling.Temperature, r.Sampling.Seed, r.Seeded = 1, 7, true
	return r
}

// TestChoicesShareASeed: choice i of a prompt does not depend on N, nor on the other
// prompts of the request.
func TestChoicesShareASeed(t *testing.T) {
	s := service(enginetest.New())
	all := texts(complete(t, s, sampled(3, 4)))
	require.NotEqual(t, all[0], all[1])
	require.Equal(t, all[:4], texts(complete(t, s, sampled(1, 4))))
	require.Equal(t, all[:2], texts(complete(t, s, sampled(1, 2))))
	require.Equal(t, all[:1], texts(complete(t, s, sampled(1, 1))))
}

// TestUnseeded: in a request without a seed, each prompt gets a seed of its own, drawn
// once for all its choices.
func TestUnseeded(t *testing.T) {
	e := enginetest.New()
	r := sampled(2, 2)
	r.Seeded = false
	complete(t, service(e), r)
	seeds := map[uint64]int{}
	for _, r := range e.Requests() {
		seeds[r.Sampling.Seed]++
	}
	require.Len(t, seeds, 2)
	for _, n := range seeds {
		require.Equal(t, 2, n)
	}
}

// TestMoreThanTheQueueHolds: an engine that takes only some sequences at a time serves
// a request of ten sequences with the same result.
func TestMoreThanTheQueueHolds(t *testing.T) {
	want := texts(complete(t, service(enginetest.New()), sampled(5, 2)))
	e := enginetest.New()
	e.Queue = 3
	require.Equal(t, want, texts(complete(t, service(e), sampled(5, 2))))
	require.Len(t, e.Requests(), 10)
}

func TestWindow(t *testing.T) {
	e := enginetest.New()
	e.Queue = 2 // the engine refuses a third sequence
	s := completion.New(completion.Config{Engine: e, Tokenizer: enginetest.Tokenizer{}, Window: 2})
	complete(t, s, sampled(4, 2))
	require.Len(t, e.Requests(), 8)
}

func TestBusy(t *testing.T) {
	e := enginetest.New()
	e.Break(enginetest.Fault{Submit: &serve.BusyError{Waiting: 9, Limit: 9}})
	_, err := service(e).Start(t.Context(), sampled(2, 2))
	var busy *serve.BusyError
	require.ErrorAs(t, err, &busy)
}

func TestUsage(t *testing.T) {
	e := enginetest.New()
	r := asked("a prompt of more than sixteen tokens")
	r.N = 2
	run, err := service(e).Start(t.Context(), r)
	require.NoError(t, err)
	defer run.Close()
	_, err = completion.Collect(run)
	require.NoError(t, err)
	output := len(enginetest.Greeting) + 1 // usage counts the end-of-sequence token
	require.Equal(t, completion.Usage{Prompt: 36, Cached: 32, Completion: 2 * output}, run.Usage())
}

func TestRefusals(t *testing.T) {
	for _, c := range []struct {
		name   string
		change func(*completion.Request)
		want   string
	}{
		{"no prompt", func(r *completion.Request) { r.Prompts = nil }, "Prompt: there is none"},
		{"empty prompt", func(r *completion.Request) { r.Prompts[0] = nil }, "Prompt: has no tokens; at least one is needed"},
		{"one empty prompt of two", func(r *completion.Request) { r.Prompts = append(r.Prompts, nil) }, "Prompt: prompt 1: has no tokens; at least one is needed"},
		{"id above the vocabulary", func(r *completion.Request) { r.Prompts[0] = []int32{1, 258} }, "Prompt: token id 258 at position 1 is outside the vocabulary of 258"},
		{"negative id", func(r *completion.Request) { r.Prompts[0] = []int32{-1} }, "Prompt: token id -1 at position 0 is outside the vocabulary of 258"},
		{"no choice", func(r *completion.Request) { r.N = 0 }, "N: 0 is less than 1"},
		{"negative output", func(r *completion.Request) { r.MaxTokens = -1 }, "MaxTokens: -1 is negative"},
		{"empty stop string", func(r *completion.Request) { r.Stop = []string{""} }, "Stop: a stop string is empty"},
		{"long prompt", func(r *completion.Request) { r.Prompts[0] = make([]int32, 600) }, "This model's maximum context length is 512 tokens. However, you requested 664 tokens (600 in the prompt, 64 in the completion). Please reduce the length of the prompt or completion."},
		{"prompt that leaves no room", func(r *completion.Request) { r.Prompts[0] = make([]int32, 512) }, "This model's maximum context length is 512 tokens. However, you requested 576 tokens (512 in the prompt, 64 in the completion). Please reduce the length of the prompt or completion."},
		{"long output", func(r *completion.Request) { r.MaxTokens = 512 }, "This model's maximum context length is 512 tokens. However, you requested 513 tokens (1 in the prompt, 512 in the completion). Please reduce the length of the prompt or completion."},
		{"long prompt, any output", func(r *completion.Request) { r.Prompts[0], r.Clip = make([]int32, 600), true }, "This model's maximum context length is 512 tokens. However, your prompt resulted in 600 tokens. Please reduce the length of the prompt."},
	} {
		t.Run(c.name, func(t *testing.T) {
			r := asked("p")
			c.change(&r)
			_, err := service(enginetest.New()).Start(t.Context(), r)
			require.EqualError(t, err, c.want)
		})
	}
}

// TestRoom: a prompt and output that exactly fill the context are served.
func TestRoom(t *testing.T) {
	e := enginetest.New()
	r := asked("p")
	r.MaxTokens, r.Clip = 1000, true
	complete(t, service(e), r)
	require.Equal(t, 511, e.Requests()[0].MaxTokens)

	r.Prompts[0], r.MaxTokens, r.PromptLogprobs = make([]int32, 512), 0, 0
	require.Len(t, complete(t, service(e), r)[0].PromptTokens, 512)

	e.Bounds.CacheTokens = 100
	r = asked("p")
	r.MaxTokens, r.Clip = 1000, true
	complete(t, service(e), r)
	require.Equal(t, 99, e.Requests()[2].MaxTokens)
}

// TestErrorEndsTheRun: one sequence's error is the run's, and no sequence keeps
// running.
func TestErrorEndsTheRun(t *testing.T) {
	for _, n := range []int{1, 3} {
		for _, want := range []error{serve.ErrNotFinite, &serve.UnavailableError{Reason: "a node was lost"}} {
			e := enginetest.New()
			e.Break(enginetest.Fault{After: 4, Err: want})
			run, err := service(e).Start(t.Context(), sampled(1, n))
			require.NoError(t, err)
			_, err = completion.Collect(run)
			require.ErrorIs(t, err, want)
			run.Close()
			require.Zero(t, e.Running())
		}
	}
}

// TestEndWithoutReason: a stream that returns io.EOF before an event with Finish has
// failed, like one whose connection breaks.
func TestEndWithoutReason(t *testing.T) {
	for _, n := range []int{1, 2} {
		for _, end := range []error{io.EOF, fmt.Errorf("reading from node a1: %w", io.EOF)} {
			e := enginetest.New()
			e.Break(enginetest.Fault{After: 2, Err: end})
			run, err := service(e).Start(t.Context(), sampled(1, n))
			require.NoError(t, err)
			_, err = completion.Collect(run)
			require.ErrorIs(t, err, io.ErrUnexpectedEOF)
			require.ErrorContains(t, err, end.Error())
			run.Close()
		}
	}
}

// TestCancel: closing a run, or ending its context, cancels every sequence.
func TestCancel(t *testing.T) {
	for _, n := range []int{1, 4} {
		for _, how := range []string{"close", "context"} {
			t.Run(fmt.Sprint(how, n), func(t *testing.T) {
				e := enginetest.New()
				e.Break(enginetest.Fault{After: 2, Hang: true})
				ctx, cancel := context.WithTimeout(t.Context(), 20*time.Millisecond)
				defer cancel()
				run, err := service(e).Start(ctx, sampled(1, n))
				require.NoError(t, err)
				if how == "context" {
					_, err = completion.Collect(run)
					require.ErrorIs(t, err, context.DeadlineExceeded)
				}
				run.Close()
				require.Zero(t, e.Running())
				require.Equal(t, n, e.Cancelled())
			})
		}
	}
}

// TestStopStringCancels: a stop string cancels its sequence at the engine.
func TestStopStringCancels(t *testing.T) {
	e := enginetest.New()
	r := asked("p")
	r.Stop = []string{"from"}
	require.Equal(t, "Hello ", complete(t, service(e), r)[0].Text)
	require.Equal(t, 1, e.Cancelled())
}

// heard is an observer that records what it is told.
type heard struct {
	prompt, tokens, cached int
	ends                   []string
}

type listener struct {
	mu sync.Mutex
	heard
}

func (h *listener) Token(cached int) {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.tokens++
	h.cached += cached
}

func (h *listener) End(reason string) {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.ends = append(h.ends, reason)
}

func TestObserver(t *testing.T) {
	for _, c := range []struct {
		name   string
		fault  enginetest.Fault
		change func(*completion.Request)
		want   heard
	}{
		{"finished", enginetest.Fault{}, nil, heard{prompt: 20, cached: 16, tokens: len(enginetest.Greeting) + 1, ends: []string{"stop"}}},
		{"stop string", enginetest.Fault{}, func(r *completion.Request) { r.Stop = []string{"o"} }, heard{prompt: 20, cached: 16, tokens: 5, ends: []string{"stop"}}},
		{"length", enginetest.Fault{}, func(r *completion.Request) { r.MaxTokens = 2 }, heard{prompt: 20, cached: 16, tokens: 2, ends: []string{"length"}}},
		{"error", enginetest.Fault{After: 3, Err: errors.New("broken")}, nil, heard{prompt: 20, cached: 16, tokens: 3, ends: []string{"error"}}},
	} {
		t.Run(c.name, func(t *testing.T) {
			e := enginetest.New()
			e.Break(c.fault)
			var h listener
			s := completion.New(completion.Config{
				Engine: e, Tokenizer: enginetest.Tokenizer{}, EOS: []int32{enginetest.EOS},
				Observe: func(prompt int) completion.SequenceObserver {
					h.prompt = prompt
					return &h
				},
			})
			r := asked("a prompt of twenty.?")
			if c.change != nil {
				c.change(&r)
			}
			run, err := s.Start(t.Context(), r)
			require.NoError(t, err)
			_, _ = completion.Collect(run)
			run.Close()
			require.Equal(t, c.want, h.heard)
		})
	}
}

// TestAbandoned: the observer of a run that is closed early gets EndAbort.
func TestAbandoned(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		e := enginetest.New()
		e.Delay = time.Second
		var h listener
		s := completion.New(completion.Config{
			Engine: e, Tokenizer: enginetest.Tokenizer{},
			Observe: func(int) completion.SequenceObserver { return &h },
		})
		run, err := s.Start(t.Context(), sampled(1, 2))
		require.NoError(t, err)
		_, err = run.Next()
		require.NoError(t, err)
		run.Close()
		require.Equal(t, []string{"abort", "abort"}, h.ends)
	})
}
