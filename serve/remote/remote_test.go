package remote_test

import (
	"context"
	"errors"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"sync"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"
	"github.com/stretchr/testify/require"
	"go.uber.org/goleak"

	"github.com/tandem-moe/tandem/cluster"
	"github.com/tandem-moe/tandem/serve"
	"github.com/tandem-moe/tandem/serve/frontend"
	"github.com/tandem-moe/tandem/serve/remote"
	"github.com/tandem-moe/tandem/serve/sample"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

const (
	timeout    = time.Second
	vocabulary = 100
)

// echo is a worker that answers each request with its prompt, or keeps it.
type echo struct {
	client *remote.Client
	keep   bool

	mu        sync.Mutex
	submitted []serve.Request
	cancelled []uint64
}

func (w *echo) Submit(r serve.Request) {
	w.mu.Lock()
	w.submitted = append(w.submitted, r)
	w.mu.Unlock()
	if w.keep {
		return
	}
	var reports []serve.Report
	for i := range r.MaxTokens {
		token := r.Prompt[i%len(r.Prompt)]
		e := serve.Event{HasToken: true, Token: token, Index: i, Logprob: &serve.TokenLogprob{
			Logprob: serve.Logprob{Token: token, Logprob: -0.5}, Top: []serve.Logprob{{Token: 1, Logprob: -0.25}},
		}}
		if i == 0 {
			e.CachedTokens, e.Prompt = 3, promptOf(r)
		}
		if i+1 == r.MaxTokens {
			e.Finish = serve.FinishLength
		}
		reports = append(reports, serve.Report{ID: r.ID, Event: e})
	}
	w.client.Report(reports)
}

// promptOf are log-probabilities of a request's prompt, with as many candidates as
// it asks for.
func promptOf(r serve.Request) (prompt []serve.TokenLogprob) {
	for _, token := range r.Prompt {
		l := serve.TokenLogprob{Logprob: serve.Logprob{Token: token, Logprob: -1}}
		for c := range r.PromptLogprobs {
			l.Top = append(l.Top, serve.Logprob{Token: int32(c), Logprob: -2})
		}
		prompt = append(prompt, l)
	}
	return prompt
}

func (w *echo) Cancel(id uint64) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.cancelled = append(w.cancelled, id)
}

// pair is a front end and one attention node that is joined to it.
type pair struct {
	front   *frontend.FrontEnd
	members *cluster.Server
	session *cluster.Session
	worker  *echo
	http    *http.Client
	web     *httptest.Server
	url     string
	tokens  int
	working context.Context
	stop    context.CancelFunc // of the worker's stream
	ended   chan error

	mu    sync.Mutex
	conns []net.Conn // the node's
}

// dial connects the node, and keeps the connection.
func (p *pair) dial(ctx context.Context, network, addr string) (net.Conn, error) {
	c, err := new(net.Dialer).DialContext(ctx, network, addr)
	p.mu.Lock()
	defer p.mu.Unlock()
	p.conns = append(p.conns, c)
	return c, err
}

func newPair(t *testing.T, keep bool) *pair {
	t.Helper()
	return newPairFor(t, keep, 64)
}

// newPairFor is newPair for sequences of so many tokens.
func newPairFor(t *testing.T, keep bool, tokens int) *pair {
	t.Helper()
	p := newFront(t, tokens)
	p.worker = &echo{client: remote.NewClient(), keep: keep}
	p.work(t, func(*serve.Offer) {})
	require.Eventually(t, func() bool { return p.front.Counts().Capacity == 2 }, 5*time.Second, time.Millisecond)
	return p
}

// newFront is a front end with a member that has not offered to work.
func newFront(t *testing.T, tokens int) *pair {
	t.Helper()
	return newFrontOf(t, tokens, true)
}

// newFrontOf is newFront with a member that is ready, or not yet.
func newFrontOf(t *testing.T, tokens int, ready bool) *pair {
	t.Helper()
	id := cluster.Identity{Version: "v"}
	p := &pair{tokens: tokens, members: cluster.NewServer(id, cluster.Settings{ExpertNodes: 1, MicroBatches: 1}, timeout), ended: make(chan error, 1)}
	p.front = frontend.New(frontend.Config{
		Vocabulary: vocabulary, MaxModelLen: tokens, MaxBatchedTokens: 8, MaxWaiting: 4, Missing: func() string { return "" },
	})
	mux := http.NewServeMux()
	mux.Handle(p.members.Handler())
	mux.Handle(remote.Handler(p.front, p.members))
	web := httptest.NewUnstartedServer(mux)
	web.Config.Protocols, web.Config.ConnContext = cluster.Protocols(), cluster.ConnContext
	web.Listener = p.members.Bounded(web.Listener)
	web.Start()
	p.url, p.web, p.http = web.URL, web, cluster.NewHTTPClient(timeout, nil)
	p.http.Transport.(*http.Transport).DialContext = p.dial
	var err error
	p.session, err = cluster.Join(t.Context(), p.http, web.URL, cluster.Hello{Role: cluster.Attention, Addr: "tcp:127.0.0.1:7001", Identity: id, Place: cluster.AnyPlace}, timeout)
	require.NoError(t, err)
	if ready {
		require.NoError(t, p.session.Ready(0))
	}
	ctx, cancel := context.WithCancel(context.Background())
	p.working, p.stop = ctx, cancel
	t.Cleanup(func() {
		cancel()
		p.session.Close()
		p.http.CloseIdleConnections()
		web.CloseClientConnections()
		web.Close()
	})
	return p
}

// work has the member offer to work.
func (p *pair) work(t *testing.T, change func(*serve.Offer)) {
	t.Helper()
	offer := serve.Offer{
		Node: p.session.Self.ID, Epoch: p.session.Self.Epoch, PageTokens: 16, MaxNumSeqs: 2, MaxBatchedTokens: 8,
		Limits: serve.Limits{Vocabulary: vocabulary, MaxModelLen: p.tokens, CacheTokens: p.tokens},
	}
	change(&offer)
	go func() { p.ended <- p.worker.client.Run(p.working, p.session.Client(), p.url, offer, p.worker) }()
}

func ask() serve.Request {
	return serve.Request{
		Prompt: []int32{5, 6, 7}, MaxTokens: 9, MinTokens: 1, StopIDs: []int32{4}, Logprobs: 1, PromptLogprobs: 2,
		Sampling: sample.Params{
			Temperature: 0.5, TopK: 3, TopP: 0.9, MinP: 0.1, RepetitionPenalty: 1.1, PresencePenalty: 0.2, FrequencyPenalty: 0.3,
			LogitBias: map[int32]float64{3: -1}, Seed: 1 << 63, Choice: 2,
		},
	}
}

// next reads an event in bounded time.
func next(t *testing.T, s serve.Stream) (serve.Event, error) {
	ctx, cancel := context.WithTimeout(t.Context(), 5*time.Second)
	defer cancel()
	return s.Next(ctx)
}

func TestRequestsAndEventsArriveAsTheyAre(t *testing.T) {
	p := newPair(t, false)
	s, err := p.front.Submit(t.Context(), ask())
	require.NoError(t, err)
	defer s.Close()
	var tokens []int32
	for {
		e, err := next(t, s)
		if errors.Is(err, io.EOF) {
			break
		}
		require.NoError(t, err)
		require.Equal(t, []serve.Logprob{{Token: 1, Logprob: -0.25}}, e.Logprob.Top)
		if e.Index == 0 {
			require.Equal(t, 3, e.CachedTokens)
			require.Equal(t, promptOf(ask()), e.Prompt)
		}
		tokens = append(tokens, e.Token)
	}
	require.Equal(t, []int32{5, 6, 7, 5, 6, 7, 5, 6, 7}, tokens)
	require.Empty(t, cmp.Diff(ask(), p.worker.submitted[0], cmpopts.IgnoreFields(serve.Request{}, "ID")))
}

func TestCancellationArrives(t *testing.T) {
	p := newPair(t, true)
	s, err := p.front.Submit(t.Context(), ask())
	require.NoError(t, err)
	s.Close()
	require.Eventually(t, func() bool {
		p.worker.mu.Lock()
		defer p.worker.mu.Unlock()
		return len(p.worker.cancelled) == 1
	}, 5*time.Second, time.Millisecond)
	require.Zero(t, p.front.Counts().Requests)
}

func TestFailuresKeepTheirKind(t *testing.T) {
	p := newPair(t, true)
	for i, want := range []error{
		&serve.InvalidError{Field: "Prompt", Reason: "r"}, &serve.BusyError{Waiting: 3, Limit: 2},
		&serve.UnavailableError{Reason: "r"}, serve.ErrNotFinite,
	} {
		s, err := p.front.Submit(t.Context(), ask())
		require.NoError(t, err)
		p.worker.client.Report([]serve.Report{{ID: submitted(t, p, i), Err: want}})
		_, err = next(t, s)
		require.Equal(t, want, err)
	}
}

// submitted waits for the worker's i-th request.
func submitted(t *testing.T, p *pair, i int) (id uint64) {
	require.Eventually(t, func() bool {
		p.worker.mu.Lock()
		defer p.worker.mu.Unlock()
		if len(p.worker.submitted) <= i {
			return false
		}
		id = p.worker.submitted[i].ID
		return true
	}, 5*time.Second, time.Millisecond)
	return id
}

// TestLostNodeFailsItsRequests removes the node from the cluster: what it had
// ends with an error, and it finds out.
func TestLostNodeFailsItsRequests(t *testing.T) {
	p := newPair(t, true)
	s, err := p.front.Submit(t.Context(), ask())
	require.NoError(t, err)
	p.members.Expel(p.session.Self.ID)
	_, err = next(t, s)
	var unavailable *serve.UnavailableError
	require.ErrorAs(t, err, &unavailable)
	require.Contains(t, err.Error(), p.session.Self.ID)
	select {
	case err := <-p.ended:
		require.Error(t, err)
	case <-time.After(5 * time.Second):
		t.Fatal("the node's stream goes on")
	}
	_, err = p.front.Submit(t.Context(), ask())
	require.ErrorAs(t, err, &unavailable)
}

// TestLastReportsArrive: what a worker says when its node stops reaches the
// request, and not that the node is gone.
func TestLastReportsArrive(t *testing.T) {
	p := newPair(t, true)
	s, err := p.front.Submit(t.Context(), ask())
	require.NoError(t, err)
	id := submitted(t, p, 0)
	last := &serve.UnavailableError{Reason: "the last word"}
	p.worker.client.Report([]serve.Report{{ID: id, Err: last}})
	p.stop()
	_, err = next(t, s)
	require.Equal(t, last, err)
	require.Error(t, <-p.ended)
}

// TestRequestsOfAStoppedNodeEnd: a node that stops without a word on a request.
func TestRequestsOfAStoppedNodeEnd(t *testing.T) {
	p := newPair(t, true)
	s, err := p.front.Submit(t.Context(), ask())
	require.NoError(t, err)
	submitted(t, p, 0)
	p.stop()
	_, err = next(t, s)
	require.Equal(t, &serve.UnavailableError{Reason: "attention node " + p.session.Self.ID + " has stopped"}, err)
}

// TestDrainingWorkerGetsNoRequests: its own go on, and their end is the
// front end's to see.
func TestDrainingWorkerGetsNoRequests(t *testing.T) {
	p := newPair(t, true)
	s, err := p.front.Submit(t.Context(), ask())
	require.NoError(t, err)
	id := submitted(t, p, 0)
	require.Equal(t, 1, p.front.Drain(p.session.Self.ID))
	require.Equal(t, frontend.Counts{Requests: 1, Capacity: 1}, p.front.Counts())
	_, err = p.front.Submit(t.Context(), ask())
	var unavailable *serve.UnavailableError
	require.ErrorAs(t, err, &unavailable)
	p.worker.client.Report([]serve.Report{{ID: id, Err: serve.ErrNotFinite}})
	_, err = next(t, s)
	require.Equal(t, serve.ErrNotFinite, err)
	require.Zero(t, p.front.Drain(p.session.Self.ID))
	require.Zero(t, p.front.Drain("nobody"))
}
