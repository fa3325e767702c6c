package frontend

import (
	"errors"
	"fmt"
	"io"
	"math"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/tandem-moe/tandem/serve"
)

// given is a worker that only records requests and cancellations.
type given struct {
	requests  []serve.Request
	cancelled []uint64
}

func (g *given) Submit(r serve.Request)  { g.requests = append(g.requests, r) }
func (g *given) Cancel(id uint64)        { g.cancelled = append(g.cancelled, id) }
func (g *given) last() (r serve.Request) { return g.requests[len(g.requests)-1] }

const words = 100

// office returns a front end with workers of these names.
func office(t *testing.T, names ...string) (*FrontEnd, map[string]*given) {
	t.Helper()
	f := New(Config{Vocabulary: words, MaxModelLen: 64, MaxWaiting: 8, Missing: func() string { return "" }})
	workers := map[string]*given{}
	for _, name := range names {
		workers[name] = &given{}
		_, err := f.Attach(offer(name), workers[name])
		require.NoError(t, err)
	}
	return f, workers
}

func offer(node string) serve.Offer {
	return serve.Offer{
		Node: node, PageTokens: 16, MaxNumSeqs: 2, MaxBatchedTokens: 8,
		Limits: serve.Limits{Vocabulary: words, MaxModelLen: 64, CacheTokens: 64},
	}
}

func want() serve.Request {
	return serve.Request{Prompt: []int32{5, 6, 7}, MaxTokens: 3, StopIDs: []int32{9}, Logprobs: 1, PromptLogprobs: 1}
}

// logprob is a token's log-probability with one candidate.
func logprob(token int32) serve.TokenLogprob {
	return serve.TokenLogprob{Logprob: serve.Logprob{Token: token, Logprob: -1}, Top: []serve.Logprob{{Token: token, Logprob: -1}}}
}

func logprobs(tokens ...int32) (all []serve.TokenLogprob) {
	for _, token := range tokens {
		all = append(all, logprob(token))
	}
	return all
}

// outputToken is the event of a request's i-th output token.
func outputToken(i int, token int32, finish serve.FinishReason) serve.Event {
	l := logprob(token)
	return serve.Event{HasToken: true, Token: token, Index: i, Logprob: &l, Finish: finish}
}

// first is the event of output token 0 with the prompt's log-probabilities.
func first(token int32, prompt ...int32) serve.Event {
	e := outputToken(0, token, "")
	e.Prompt = logprobs(prompt...)
	return e
}

// TestReportsAreHeldAgainstTheRequest: a report that no correct node sends is an
// error with its reason, and never becomes an event.
func TestReportsAreHeldAgainstTheRequest(t *testing.T) {
	good := first(1, 5, 6, 7)
	bad := func(change func(*serve.Event)) []serve.Event {
		e := first(1, 5, 6, 7)
		l := *e.Logprob
		e.Logprob = &l
		change(&e)
		return []serve.Event{e}
	}
	for reason, events := range map[string][]serve.Event{
		"output token 1, the next is 0":                       bad(func(e *serve.Event) { e.Index = 1 }),
		"output token -1, the next is 0":                      bad(func(e *serve.Event) { e.Index = -1 }),
		"output token 0, the next is 1":                       {good, outputToken(0, 1, "")},
		"output token 3 of 3":                                 {good, outputToken(1, 1, ""), outputToken(2, 1, ""), outputToken(3, 1, "")},
		"token 100 of a vocabulary of 100":                    bad(func(e *serve.Event) { e.Token = 100 }),
		"token -1 of a vocabulary of 100":                     bad(func(e *serve.Event) { e.Token = -1 }),
		"asked for: true":                                     bad(func(e *serve.Event) { e.Logprob = nil }),
		"the log-probability of token 2 with token 1":         bad(func(e *serve.Event) { e.Logprob.Token = 2 }),
		"2 candidates, 1 asked for":                           bad(func(e *serve.Event) { e.Logprob.Top = make([]serve.Logprob, 2) }),
		"the log-probability of token 777":                    bad(func(e *serve.Event) { e.Logprob.Top = []serve.Logprob{{Token: 777, Logprob: -1}} }),
		"the log-probability NaN of token 1":                  bad(func(e *serve.Event) { e.Logprob.Logprob.Logprob = float32(math.NaN()) }),
		"4 cached tokens of a prompt of 3":                    bad(func(e *serve.Event) { e.CachedTokens = 4 }),
		"log-probabilities of 2 prompt tokens, it has 3":      bad(func(e *serve.Event) { e.Prompt = e.Prompt[:2] }),
		"of 4 prompt tokens after 0, of a prompt of 3":        bad(func(e *serve.Event) { e.Prompt = logprobs(5, 6, 7, 8) }),
		"of token 9 at place 1 of the prompt, where 6 is":     bad(func(e *serve.Event) { e.Prompt = logprobs(5, 9, 7) }),
		"of 3 prompt tokens after 0, of a prompt":             {good, func() serve.Event { e := outputToken(1, 1, ""); e.Prompt = logprobs(5, 6, 7); return e }()},
		"an event without a token that ends nothing":          bad(func(e *serve.Event) { *e = serve.Event{} }),
		`an end for the reason "stop" after 1 tokens of 3`:    bad(func(e *serve.Event) { e.Finish = serve.FinishStop }),
		`an end for the reason "length" after 1 tokens of 3`:  bad(func(e *serve.Event) { e.Finish = serve.FinishLength }),
		`an end for the reason "content" after 1 tokens of 3`: bad(func(e *serve.Event) { e.Finish = "content" }),
		`an end for the reason "length" after 2 tokens of 3`:  {good, outputToken(1, 1, serve.FinishLength)},
	} {
		f, workers := office(t, "a")
		_, err := f.Submit(t.Context(), want())
		require.NoError(t, err)
		id := workers["a"].last().ID
		for i, e := range events {
			err = f.Deliver("a", []serve.Report{{ID: id, Event: e}})
			if i+1 < len(events) {
				require.NoError(t, err, reason)
			}
		}
		var report *ReportError
		require.ErrorAs(t, err, &report, reason)
		require.ErrorContains(t, err, reason)
		require.Equal(t, id, report.Request)
	}
}

// TestReportsOfOthersRequests: a node may report on a request that has ended, but not
// on one of another node.
func TestReportsOfOthersRequests(t *testing.T) {
	f, workers := office(t, "a", "b")
	s, err := f.Submit(t.Context(), want())
	require.NoError(t, err)
	mine, other := "a", "b"
	if len(workers["a"].requests) == 0 {
		mine, other = "b", "a"
	}
	id := workers[mine].last().ID
	say := func(node string, id uint64) error {
		return f.Deliver(node, []serve.Report{{ID: id, Event: first(1, 5, 6, 7)}})
	}
	require.ErrorContains(t, say(other, id), "it is node "+mine+" that has it")
	require.ErrorContains(t, say(mine, id+1), "there was no such request")
	require.ErrorContains(t, say(mine, 0), "there was no such request")
	require.NoError(t, say(mine, id))
	s.Close()
	require.NoError(t, say(mine, id), "it was under way when the request was cancelled")
}

// TestPromptsComeInPieces: log-probabilities of a prompt that come in several
// reports make one event, and the front end takes no more than were asked for.
func TestPromptsComeInPieces(t *testing.T) {
	f, workers := office(t, "a")
	s, err := f.Submit(t.Context(), want())
	require.NoError(t, err)
	id := workers["a"].last().ID
	require.NoError(t, f.Deliver("a", []serve.Report{{ID: id, More: true, Event: serve.Event{Prompt: logprobs(5)}}}))
	require.NoError(t, f.Deliver("a", []serve.Report{{ID: id, More: true, Event: serve.Event{Prompt: logprobs(6)}}, {ID: id, Event: first(1, 7)}}))
	e, err := s.Next(t.Context())
	require.NoError(t, err)
	require.Equal(t, first(1, 5, 6, 7), e)
	for _, piece := range []serve.Event{{}, {Prompt: logprobs(5), Finish: serve.FinishStop}, first(1, 5)} {
		_, err := f.Submit(t.Context(), want())
		require.NoError(t, err)
		require.Error(t, f.Deliver("a", []serve.Report{{ID: workers["a"].last().ID, More: true, Event: piece}}), fmt.Sprint(piece))
	}
}

// TestMoveContinuesElsewhere: requests of a worker that makes no progress continue on
// another worker where they stopped, and are moved only once.
func TestMoveContinuesElsewhere(t *testing.T) {
	f, workers := office(t, "a", "b")
	s, err := f.Submit(t.Context(), want())
	require.NoError(t, err)
	from, to := "a", "b"
	if len(workers["a"].requests) == 0 {
		from, to = "b", "a"
	}
	old := workers[from].last().ID
	e := first(1, 5, 6, 7)
	e.CachedTokens = 2
	require.NoError(t, f.Deliver(from, []serve.Report{{ID: old, Event: e}}))
	require.Contains(t, f.Busy(), from)
	require.WithinDuration(t, time.Now(), f.Busy()[from], time.Minute)

	lost := &serve.UnavailableError{Reason: "it stands still"}
	f.Move(from, lost)
	require.Equal(t, []uint64{old}, workers[from].cancelled)
	moved := workers[to].last()
	require.Equal(t, []int32{1}, moved.Output)
	require.Equal(t, -1, moved.PromptLogprobs)
	require.NotEqual(t, old, moved.ID)
	require.NoError(t, f.Deliver(from, []serve.Report{{ID: old, Event: outputToken(1, 2, "")}}), "what was under way is dropped")
	again := outputToken(1, 3, "")
	again.CachedTokens = 3
	require.NoError(t, f.Deliver(to, []serve.Report{{ID: moved.ID, Event: again}, {ID: moved.ID, Event: outputToken(2, 4, serve.FinishLength)}}))
	var tokens []int32
	for {
		e, err := s.Next(t.Context())
		if errors.Is(err, io.EOF) {
			break
		}
		require.NoError(t, err)
		tokens = append(tokens, e.Token)
		require.Equal(t, e.Index == 0, e.CachedTokens == 2, "the first node told it, once")
	}
	require.Equal(t, []int32{1, 3, 4}, tokens)

	s, err = f.Submit(t.Context(), want())
	require.NoError(t, err)
	f.Move(to, lost)
	_, err = s.Next(t.Context())
	require.Equal(t, lost, err, "there is no other")
	_, err = f.Submit(t.Context(), want())
	require.ErrorContains(t, err, "no attention node has offered to work")
}

// TestOffersFitTheDeployment: the front end checks every number of an offer before it
// allocates or divides by one.
func TestOffersFitTheDeployment(t *testing.T) {
	f, _ := office(t)
	f.cfg.MaxBatchedTokens = 8
	for want, change := range map[string]func(*serve.Offer){
		"CacheTokens of 8796093022208, want 16 to":  func(o *serve.Offer) { o.CacheTokens = 1 << 43 },
		"CacheTokens of 15, want 16":                func(o *serve.Offer) { o.CacheTokens = 15 },
		"MaxBatchedTokens of 0, want 1":             func(o *serve.Offer) { o.MaxBatchedTokens = 0 },
		"MaxNumSeqs of -1000000, want 1":            func(o *serve.Offer) { o.MaxNumSeqs = -1e6 },
		"PageTokens of 0, want 1":                   func(o *serve.Offer) { o.PageTokens = 0 },
		"steps of 9 rows, the front end has set 8":  func(o *serve.Offer) { o.MaxBatchedTokens = 9 },
		"a vocabulary of 99 and sequences of 64":    func(o *serve.Offer) { o.Vocabulary = 99 },
		"a vocabulary of 100 and sequences of 1024": func(o *serve.Offer) { o.MaxModelLen = 1024 },
	} {
		o := offer("a")
		change(&o)
		_, err := f.Attach(o, &given{})
		require.ErrorContains(t, err, want)
	}
	huge := offer("a")
	huge.CacheTokens, huge.PageTokens = maxCacheTokens, 1
	_, err := f.Attach(huge, &given{})
	require.NoError(t, err)
	require.Less(t, cap(f.workers[0].prefixes.ring), 100, "nothing is allocated by what a node says")
	require.Equal(t, maxPrefixes, f.workers[0].prefixes.size)
	_, err = f.Attach(offer("a"), &given{})
	require.ErrorContains(t, err, "works for the front end already")
}

// TestRequestsAreBounded: too many stop ids or biases are refused, as in the API.
func TestRequestsAreBounded(t *testing.T) {
	f, _ := office(t, "a")
	r := want()
	r.StopIDs = make([]int32, serve.MaxStopIDs+1)
	_, err := f.Submit(t.Context(), r)
	require.ErrorContains(t, err, "StopIDs: 1025 ids, there can be 1024")
	r = want()
	r.Sampling.LogitBias = map[int32]float64{}
	for i := range int32(serve.MaxBiases + 1) {
		r.Sampling.LogitBias[i] = 1
	}
	_, err = f.Submit(t.Context(), r)
	require.ErrorContains(t, err, "Sampling.LogitBias: 32769 tokens, there can be 32768")
}

// TestLivesShareNoRequests: a restarted front end uses no request id of before.
func TestLivesShareNoRequests(t *testing.T) {
	before, old := office(t, "a")
	_, err := before.Submit(t.Context(), want())
	require.NoError(t, err)
	time.Sleep(2 * time.Microsecond)
	after, workers := office(t, "a")
	_, err = after.Submit(t.Context(), want())
	require.NoError(t, err)
	require.Greater(t, workers["a"].last().ID, old["a"].last().ID)
	require.ErrorContains(t, after.Deliver("a", []serve.Report{{ID: old["a"].last().ID, Event: first(1, 5, 6, 7)}}), "there was no such request")
}
