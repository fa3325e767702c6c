package remote_test

import (
	"context"
	"errors"
	"io"
	"net"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/tandem-moe/tandem/cluster"
	"github.com/tandem-moe/tandem/serve"
	"github.com/tandem-moe/tandem/serve/remote"
)

// offers runs a worker's stream until it ends.
func (p *pair) offers(t *testing.T, change func(*serve.Offer)) error {
	t.Helper()
	p.worker = &echo{client: remote.NewClient()}
	p.work(t, change)
	select {
	case err := <-p.ended:
		return err
	case <-time.After(5 * time.Second):
		t.Fatal("the offer was taken")
		return nil
	}
}

// TestWhoIsNotReadyGetsNoWork: a member whose weights nobody has compared could answer
// anything. Its offer counts from when it is ready.
func TestWhoIsNotReadyGetsNoWork(t *testing.T) {
	p := newFrontOf(t, 64, false)
	p.worker = &echo{client: remote.NewClient()}
	p.work(t, func(*serve.Offer) {})
	require.Never(t, func() bool { return p.front.Counts().Capacity > 0 }, 300*time.Millisecond, 10*time.Millisecond)
	require.NoError(t, p.session.Ready(0))
	require.Eventually(t, func() bool { return p.front.Counts().Capacity == 2 }, 5*time.Second, time.Millisecond)
}

// TestStrangersGetNoWork: an offer must be of a member that proves it, and fit the
// settings. Afterwards a good one is taken.
func TestStrangersGetNoWork(t *testing.T) {
	p := newFront(t, 64)
	for want, change := range map[string]func(*serve.Offer){
		"offers to work as \"attention-9\"":                                 func(o *serve.Offer) { o.Node = "attention-9" },
		"offers to work as":                                                 func(o *serve.Offer) { o.Epoch++ },
		"Limits.cache_tokens is 8796093022208":                              func(o *serve.Offer) { o.CacheTokens = 1 << 43 },
		"Limits.max_batched_tokens is 0":                                    func(o *serve.Offer) { o.MaxBatchedTokens = 0 },
		"Limits.max_num_seqs is -1000000":                                   func(o *serve.Offer) { o.MaxNumSeqs = -1e6 },
		"sequences of 32 tokens, the front end has 100 and 64":              func(o *serve.Offer) { o.MaxModelLen = 32 },
		"offers steps of 7 rows, the front end has set 8":                   func(o *serve.Offer) { o.MaxBatchedTokens = 7 },
		"offers CacheTokens of 3, want 16":                                  func(o *serve.Offer) { o.CacheTokens = 3 },
		"Offer.node is 0, want 1 to 128":                                    func(o *serve.Offer) { o.Node = "" },
		"Limits.page_tokens is -16, want 1":                                 func(o *serve.Offer) { o.PageTokens = -16 },
		"a vocabulary of 101 and sequences of 64 tokens, the front end has": func(o *serve.Offer) { o.Vocabulary++ },
	} {
		require.ErrorContains(t, p.offers(t, change), want)
		require.Zero(t, p.front.Counts().Capacity)
	}
	stranger := remote.NewClient()
	offer := serve.Offer{
		Node: p.session.Self.ID, Epoch: p.session.Self.Epoch, PageTokens: 16, MaxNumSeqs: 2, MaxBatchedTokens: 8,
		Limits: serve.Limits{Vocabulary: vocabulary, MaxModelLen: 64, CacheTokens: 64},
	}
	err := stranger.Run(p.working, p.http, p.url, offer, &echo{client: stranger})
	require.ErrorContains(t, err, "the stream is of no member of the cluster")
	p.worker = &echo{client: remote.NewClient()}
	p.work(t, func(*serve.Offer) {})
	require.Eventually(t, func() bool { return p.front.Counts().Capacity == 2 }, 5*time.Second, time.Millisecond)
}

// TestNodeThatReportsNonsenseIsRefused: its request ends with an error, it is no
// member any more, and no wrong token reaches the client.
func TestNodeThatReportsNonsenseIsRefused(t *testing.T) {
	for want, event := range map[string]serve.Event{
		"token 4000 of a vocabulary of 100": {HasToken: true, Token: 4000},
		"Event.token is -1":                 {HasToken: true, Token: -1},
		"output token 5, the next is 0":     {HasToken: true, Token: 1, Index: 5},
		"Event.finish is 17":                {Finish: "no reason is long"},
	} {
		p := newPair(t, true)
		r := ask()
		r.Logprobs, r.PromptLogprobs = -1, -1
		s, err := p.front.Submit(t.Context(), r)
		require.NoError(t, err)
		p.worker.client.Report([]serve.Report{{ID: submitted(t, p, 0), Event: event}})
		_, err = next(t, s)
		var unavailable *serve.UnavailableError
		require.ErrorAs(t, err, &unavailable)
		require.ErrorContains(t, err, "attention node "+p.session.Self.ID+" is refused: "+want)
		require.Eventually(t, func() bool { _, ok := members(p).Find(p.session.Self.ID); return !ok }, 5*time.Second, time.Millisecond)
		require.Contains(t, p.members.Gone(p.session.Self.ID), want)
	}
}

func members(p *pair) cluster.View {
	v, _ := p.members.View()
	return v
}

// TestNodeRefusesBadRequestsAlone: a request that the node cannot serve ends; the
// next one is served. (The front end has checked it by the largest node's limits.)
func TestNodeRefusesBadRequestsAlone(t *testing.T) {
	p := newFront(t, 64)
	p.worker = &echo{client: remote.NewClient()}
	p.work(t, func(o *serve.Offer) {
		// What the node itself holds its requests against.
		o.CacheTokens = 16
	})
	require.Eventually(t, func() bool { return p.front.Counts().Capacity == 2 }, 5*time.Second, time.Millisecond)
	r := ask()
	r.MaxTokens = 14
	_, err := p.front.Submit(t.Context(), r)
	require.ErrorContains(t, err, "more than the KV cache of 16 tokens holds")
	s, err := p.front.Submit(t.Context(), ask())
	require.NoError(t, err)
	_, err = next(t, s)
	require.NoError(t, err)
}

// TestLargeRequestsCostNoNode: 20,000 tokens, and 20 candidates for each, are 5 MB:
// more than a message may have. They come through, and so does what runs beside
// them.
func TestLargeRequestsCostNoNode(t *testing.T) {
	const tokens = 20_000
	p := newPairFor(t, false, 1<<17)
	large := ask()
	large.Prompt, large.PromptLogprobs = make([]int32, tokens), 20
	s, err := p.front.Submit(t.Context(), large)
	require.NoError(t, err)
	small, err := p.front.Submit(t.Context(), ask())
	require.NoError(t, err)
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	e, err := s.Next(ctx)
	require.NoError(t, err)
	require.Len(t, e.Prompt, tokens)
	require.Len(t, e.Prompt[tokens-1].Top, 20)
	for {
		if _, err = small.Next(ctx); err != nil {
			break
		}
	}
	require.ErrorIs(t, err, io.EOF)
	require.Empty(t, p.members.Gone(p.session.Self.ID))
}

// TestKilledNodeIsToldByItsConnection: not as a context that was canceled.
func TestKilledNodeIsToldByItsConnection(t *testing.T) {
	p := newPair(t, true)
	s, err := p.front.Submit(t.Context(), ask())
	require.NoError(t, err)
	submitted(t, p, 0)
	p.cut(t)
	_, err = next(t, s)
	require.ErrorContains(t, err, "attention node "+p.session.Self.ID+" is lost: its connection ")
	require.NotContains(t, err.Error(), "context")
	require.Eventually(t, func() bool { return p.members.Gone(p.session.Self.ID) != "" }, 5*time.Second, time.Millisecond)
	require.Contains(t, p.members.Gone(p.session.Self.ID), "its connection ")
}

// TestKilledFrontEndIsToldByItsConnection: by both of a node's streams.
func TestKilledFrontEndIsToldByItsConnection(t *testing.T) {
	p := newPair(t, true)
	p.web.CloseClientConnections()
	require.ErrorContains(t, <-p.ended, "the front end is lost: its connection ")
	ctx, cancel := context.WithTimeout(t.Context(), 5*time.Second)
	defer cancel()
	var err error
	for err == nil {
		_, err = p.session.Next(ctx)
	}
	require.ErrorContains(t, err, "the front end is lost: its connection ")
}

// cut ends the node's connections as the end of its process does.
func (p *pair) cut(t *testing.T) {
	t.Helper()
	p.mu.Lock()
	defer p.mu.Unlock()
	require.NotEmpty(t, p.conns)
	for _, c := range p.conns {
		err := c.Close()
		require.True(t, err == nil || errors.Is(err, net.ErrClosed))
	}
}
