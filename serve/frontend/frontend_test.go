package frontend

import (
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/tandem-moe/tandem/serve"
)

// longPrompts returns a front end for prompts of 128 Ki tokens, with one worker for
// each number of tokens per page.
func longPrompts(t testing.TB, pageTokens ...int) *FrontEnd {
	t.Helper()
	const tokens = 1 << 18
	f := New(Config{Vocabulary: words, MaxModelLen: tokens, MaxWaiting: 1 << 20, Missing: func() string { return "" }})
	for i, n := range pageTokens {
		o := serve.Offer{
			Node: string(rune('a' + i)), PageTokens: n, MaxNumSeqs: 8, MaxBatchedTokens: 512,
			Limits: serve.Limits{Vocabulary: words, MaxModelLen: tokens, CacheTokens: 8 * tokens},
		}
		_, err := f.Attach(o, &given{})
		require.NoError(t, err)
	}
	return f
}

func longRequest() serve.Request {
	return serve.Request{Prompt: make([]int32, 128<<10), MaxTokens: 1, Logprobs: -1, PromptLogprobs: -1}
}

// TestPrefixAttractsAcrossPageSizes: the worker that has seen a prompt gets the same
// prompt again, whatever the size of its pages.
func TestPrefixAttractsAcrossPageSizes(t *testing.T) {
	f := longPrompts(t, 16, 256)
	first, err := f.Submit(t.Context(), longRequest())
	require.NoError(t, err)
	has := func() (nodes []string) {
		for _, w := range f.workers {
			for range w.running {
				nodes = append(nodes, w.Node)
			}
		}
		return nodes
	}
	seen := has()
	require.NoError(t, f.Deliver(seen[0], []serve.Report{{ID: f.firstID, Event: serve.Event{
		HasToken: true, Token: 1, Finish: serve.FinishLength,
	}}}))
	first.Close()
	require.Empty(t, has())
	_, err = f.Submit(t.Context(), longRequest())
	require.NoError(t, err)
	require.Equal(t, seen, has())
	other := longRequest()
	other.Prompt[0] = 1
	_, err = f.Submit(t.Context(), other)
	require.NoError(t, err)
	require.ElementsMatch(t, []string{"a", "b"}, has(), "another prompt goes to the idle worker")
}

// BenchmarkLockWhileSubmitting submits prompts of 128 Ki tokens, and reports how long
// a token waits at worst for the front end's lock meanwhile.
func BenchmarkLockWhileSubmitting(b *testing.B) {
	f := longPrompts(b, 16, 16)
	done, worst := make(chan struct{}), time.Duration(0)
	var tokens sync.WaitGroup
	tokens.Go(func() {
		for {
			select {
			case <-done:
				return
			case <-time.After(100 * time.Microsecond):
			}
			begin := time.Now()
			if err := f.Deliver("a", nil); err != nil {
				b.Error(err)
			}
			worst = max(worst, time.Since(begin))
		}
	})
	for b.Loop() {
		s, err := f.Submit(b.Context(), longRequest())
		require.NoError(b, err)
		s.Close()
	}
	close(done)
	tokens.Wait()
	b.ReportMetric(float64(worst.Microseconds()), "µs/worst-wait")
}

// TestWhoHoldsGetsNothingNew: an attention node that lacks expert nodes keeps what it
// has, and gets no new request, also none that is moved; where all of them lack some,
// requests are refused at once.
func TestWhoHoldsGetsNothingNew(t *testing.T) {
	f, workers := office(t, "a", "b")
	held := map[string]bool{}
	f.cfg.Holds = func(node string) bool { return held[node] }
	submit := func() error {
		s, err := f.Submit(t.Context(), want())
		if err == nil {
			t.Cleanup(s.Close)
		}
		return err
	}
	require.NoError(t, submit())
	require.NoError(t, submit())
	require.Len(t, workers["a"].requests, 1)
	require.Len(t, workers["b"].requests, 1)
	held["a"] = true
	for range 3 {
		require.NoError(t, submit())
	}
	require.Len(t, workers["a"].requests, 1)
	require.Empty(t, workers["a"].cancelled)
	require.Len(t, workers["b"].requests, 4)
	require.Equal(t, 64, f.Limits().CacheTokens)

	f.Move("b", &serve.UnavailableError{Reason: "b is lost"})
	require.Len(t, workers["a"].requests, 1)
	held["b"] = true
	err := submit()
	var unavailable *serve.UnavailableError
	require.ErrorAs(t, err, &unavailable)
	require.ErrorContains(t, err, "no attention node with room for the request reaches all expert nodes")
}
