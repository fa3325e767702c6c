package api_test

import (
	"context"
	"errors"
	"net/http/httptest"
	"runtime"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/tandem-moe/tandem/api"
	"github.com/tandem-moe/tandem/serve/completion"
	"github.com/tandem-moe/tandem/serve/completion/enginetest"
)

// slowTokenizer encodes until it is told to go on, or its context ends.
type slowTokenizer struct {
	enginetest.Tokenizer
	goOn            chan struct{}
	inside, highest atomic.Int64
	ended           chan error
}

func (s *slowTokenizer) Encode(ctx context.Context, text string, special bool) ([]int32, error) {
	n := s.inside.Add(1)
	defer s.inside.Add(-1)
	for old := s.highest.Load(); n > old && !s.highest.CompareAndSwap(old, n); old = s.highest.Load() {
	}
	select {
	case <-s.goOn:
		return s.Tokenizer.Encode(ctx, text, special)
	case <-ctx.Done():
		s.ended <- context.Cause(ctx)
		return nil, ctx.Err()
	}
}

func slowServer(change func(*api.Config)) (*api.Server, *slowTokenizer) {
	e := enginetest.New()
	slow := &slowTokenizer{goOn: make(chan struct{}), ended: make(chan error, 100)}
	cfg := config(e)
	cfg.Service = completion.New(completion.Config{Engine: e, Tokenizer: slow, EOS: []int32{enginetest.EOS}})
	if change != nil {
		change(&cfg)
	}
	return api.NewServer(cfg), slow
}

// TestHopelessPromptIsNotTokenized: what can never fit is refused at once.
func TestHopelessPromptIsNotTokenized(t *testing.T) {
	s, slow := slowServer(nil) // nothing that is tokenized goes on
	long := strings.Repeat(" ", 8_000_000)
	for path, body := range map[string]string{
		"/v1/completions":      `{"prompt":"` + long + `"}`,
		"/v1/chat/completions": `{"messages":[{"role":"user","content":"` + long + `"}]}`,
	} {
		w := ask(t, s, "POST", path, body)
		require.Equal(t, 400, w.Code)
		require.Contains(t, w.Body.String(), "context_length_exceeded")
	}
	require.Zero(t, slow.highest.Load())
}

// TestFewPrepareAtATime: as many requests as there are processors are tokenized at
// a time, the others wait their turn; who leaves ends its own, and frees the place.
func TestFewPrepareAtATime(t *testing.T) {
	s, slow := slowServer(nil)
	most := runtime.GOMAXPROCS(0)
	ctx, leave := context.WithCancelCause(t.Context())
	var clients sync.WaitGroup
	send := func(ctx context.Context) {
		clients.Go(func() {
			r := httptest.NewRequestWithContext(ctx, "POST", "/v1/completions",
				strings.NewReader(`{"prompt":"a","max_tokens":1}`))
			s.ServeHTTP(httptest.NewRecorder(), r)
		})
	}
	for range 3 * most {
		send(ctx)
	}
	require.Eventually(t, func() bool { return slow.inside.Load() == int64(most) }, 10*time.Second, time.Millisecond)
	gone := errors.New("the client left")
	leave(gone)
	for range most {
		require.ErrorIs(t, <-slow.ended, gone)
	}
	clients.Wait()
	require.LessOrEqual(t, slow.highest.Load(), int64(most))

	close(slow.goOn)
	require.Equal(t, 200, ask(t, s, "POST", "/v1/completions", `{"prompt":"a","max_tokens":1}`).Code)
}

// TestLargeBodiesLeaveRoom: while large bodies are tokenized or wait for that, a
// small one has a place, where there is more than one; and the memory of all of
// them is counted until they are done.
func TestLargeBodiesLeaveRoom(t *testing.T) {
	if runtime.GOMAXPROCS(0) < 2 {
		t.Skip("one processor has one place")
	}
	const size = 100_000
	s, slow := slowServer(func(c *api.Config) { c.Limits.Bodies = 4 * 2 * size })
	ctx, leave := context.WithCancel(t.Context())
	var clients sync.WaitGroup
	var full atomic.Int64
	ask := func(path, body string) {
		clients.Go(func() {
			w := httptest.NewRecorder()
			s.ServeHTTP(w, httptest.NewRequestWithContext(ctx, "POST", path, strings.NewReader(body)))
			if w.Code == 429 {
				full.Add(1)
			}
		})
	}
	for range 8 {
		ask("/tokenize", `{"prompt":"`+strings.Repeat("x", size)+`"}`)
	}
	require.Eventually(t, func() bool { return slow.inside.Load() >= 1 && full.Load() >= 4 }, 10*time.Second,
		time.Millisecond)
	before := slow.inside.Load()
	ask("/tokenize", `{"prompt":"x"}`)
	require.Eventually(t, func() bool { return slow.inside.Load() > before }, 10*time.Second, time.Millisecond)
	leave()
	clients.Wait()
}
