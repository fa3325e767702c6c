package deploy_test

import (
	"context"
	"errors"
	"net"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/tandem-moe/tandem/cluster"
	"github.com/tandem-moe/tandem/layer"
	"github.com/tandem-moe/tandem/m2n"
	"github.com/tandem-moe/tandem/model"
	"github.com/tandem-moe/tandem/serve"
	"github.com/tandem-moe/tandem/serve/deploy"
	"github.com/tandem-moe/tandem/serve/remote"
)

// puppet is a fake member whose progress the test sets.
type puppet struct {
	session *cluster.Session
	client  *remote.Client
	steps   atomic.Uint64
	moves   bool
	action  atomic.Pointer[string] // the action that it reports; nil for none

	mu       sync.Mutex
	requests []serve.Request
}

// Submit answers a request with tokens 1 while the puppet makes progress, and never
// otherwise.
func (p *puppet) Submit(r serve.Request) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.requests = append(p.requests, r)
	if !p.moves {
		return
	}
	var reports []serve.Report
	for i := len(r.Output); i < r.MaxTokens; i++ {
		e := serve.Event{HasToken: true, Token: 1, Index: i}
		if i+1 == r.MaxTokens {
			e.Finish = serve.FinishLength
		}
		reports = append(reports, serve.Report{ID: r.ID, Event: e})
	}
	p.client.Report(reports)
}

func (p *puppet) Cancel(uint64) {}

func (p *puppet) progress() cluster.Progress {
	if p.moves {
		p.steps.Add(1)
	}
	at := cluster.Progress{Steps: p.steps.Load()}
	if action := p.action.Load(); action != nil {
		at.Action = *action
	}
	return at
}

// at makes the puppet report an action.
func (p *puppet) at(action string) { p.action.Store(&action) }

// stage is a front end with its puppets.
type stage struct {
	t       *testing.T
	control *deploy.Control
	model   *deploy.Model
	url     string
	timeout time.Duration
}

func newStage(t *testing.T) *stage {
	t.Helper()
	m, err := deploy.OpenModel("")
	require.NoError(t, err)
	o := nodeOptions()
	o.PeerTimeout = 800 * time.Millisecond
	control, err := deploy.NewControl(m, o, "test")
	require.NoError(t, err)
	l, err := net.Listen("tcp", "127.0.0.1:0")
	require.NoError(t, err)
	ctx, cancel := context.WithCancel(context.Background())
	var serving sync.WaitGroup
	serving.Go(func() { _ = control.Serve(ctx, l) })
	t.Cleanup(func() {
		cancel()
		serving.Wait()
		require.NoError(t, m.Checkpoint.Close())
	})
	return &stage{t: t, control: control, model: m, url: "http://" + l.Addr().String(), timeout: o.PeerTimeout}
}

// join makes a puppet a ready member; an attention node also offers to work.
func (s *stage) join(role cluster.Role, moves bool) *puppet {
	s.t.Helper()
	return s.joinAt(role, moves, "tcp:127.0.0.1:1")
}

// joinAt is join with the puppet's address for peers.
func (s *stage) joinAt(role cluster.Role, moves bool, addr string) *puppet {
	s.t.Helper()
	client := cluster.NewHTTPClient(s.timeout, nil)
	p := &puppet{client: remote.NewClient(), moves: moves}
	var err error
	p.session, err = cluster.Join(s.t.Context(), client, s.url, cluster.Hello{
		Role: role, Addr: addr, Identity: s.model.Identity("test"), Place: cluster.AnyPlace,
	}, s.timeout)
	require.NoError(s.t, err)
	p.session.Tell(p.progress)
	placement := uint64(0)
	if role == cluster.Expert {
		placement = 1
	}
	require.NoError(s.t, errors.Join(p.session.Weights(placement, s.digests(role)), p.session.Ready(placement)))
	ctx, cancel := context.WithCancel(context.Background())
	var working sync.WaitGroup
	s.t.Cleanup(func() {
		cancel()
		working.Wait()
		p.session.Close()
		client.CloseIdleConnections()
	})
	if role == cluster.Attention {
		for ready := false; !ready; {
			view, err := p.session.Next(bounded(s.t))
			require.NoError(s.t, err)
			self, _ := view.Find(p.session.Self.ID)
			ready = self.Ready
		}
		require.NoError(s.t, p.session.Reach(nil))
		self, o := p.session.Self, nodeOptions()
		offer := serve.Offer{
			Node: self.ID, Epoch: self.Epoch, PageTokens: 16, MaxNumSeqs: 4, MaxBatchedTokens: o.MaxBatchedTokens,
			Limits: serve.Limits{Vocabulary: s.model.Spec.Vocabulary, MaxModelLen: s.model.Spec.MaxPositions, CacheTokens: 4096},
		}
		working.Go(func() { _ = p.client.Run(ctx, p.session.Client(), s.url, offer, p) })
	}
	return p
}

// digests returns the digests of a role's weights, which a puppet claims to have loaded.
func (s *stage) digests(role cluster.Role) []uint64 {
	s.t.Helper()
	part := model.Role{Part: model.AttentionPart}
	if role == cluster.Expert {
		part = s.model.Spec.AllExperts()
	}
	c, err := layer.Tie(s.model.Checkpoint, s.model.Spec)
	require.NoError(s.t, err)
	refs, err := c.Weights(part)
	require.NoError(s.t, err)
	digests, err := s.model.Checkpoint.Digests(s.t.Context(), refs, 1)
	require.NoError(s.t, err)
	list := make([]uint64, len(digests))
	for i, d := range digests {
		list[i] = uint64(d)
	}
	return list
}

// capacity waits until the attention nodes can run so many requests.
func (s *stage) capacity(n int) {
	s.t.Helper()
	require.Eventually(s.t, func() bool { return s.control.Missing() == "" && s.control.Engine.Counts().Capacity == n }, 10*time.Second, time.Millisecond)
}

// TestWhoStandsStillLosesItsRequests: a node that is alive and makes no progress is
// removed. Its requests move to another node, or end with the reason where there is none.
func TestWhoStandsStillLosesItsRequests(t *testing.T) {
	s := newStage(t)
	s.join(cluster.Expert, true)
	still := s.join(cluster.Attention, false)
	still.at("A3F1")
	s.capacity(4)
	r := serve.Request{Prompt: []int32{1, 2, 3}, MaxTokens: 3, Logprobs: -1, PromptLogprobs: -1}
	_, err := ask(bounded(t), s.control.Engine, r)
	require.ErrorContains(t, err, "attention node "+still.session.Self.ID+" is lost: it lives and has not moved for")
	require.ErrorContains(t, err, ", at action A3F1 although it has requests")

	again := s.join(cluster.Attention, false)
	again.at("no\x1b[2Jaction")
	s.join(cluster.Attention, true)
	s.capacity(8)
	var all sync.WaitGroup
	for range 4 {
		all.Go(func() {
			got, err := ask(bounded(t), s.control.Engine, r)
			if err != nil || len(got.tokens) != 3 {
				t.Errorf("%v, %v", got.tokens, err)
			}
		})
	}
	all.Wait()
	again.mu.Lock()
	defer again.mu.Unlock()
	require.NotEmpty(t, again.requests, "the one that stands still had some of them")
	gone := s.control.Members.Gone(again.session.Self.ID)
	require.Contains(t, gone, "it lives and has not moved")
	require.NotContains(t, gone, "action", "what is no action is not repeated")
}

// deaf makes a puppet an expert node that attention nodes can connect to and that never
// answers.
func (s *stage) deaf() *puppet {
	s.t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	require.NoError(s.t, err)
	p := s.joinAt(cluster.Expert, false, "tcp:"+l.Addr().String())
	self := p.session.Self
	ep, err := m2n.NewEndpoint(m2n.Config{ID: self.ID, Epoch: self.Epoch, Slots: 4, SlotBytes: 1 << 22, PeerTimeout: s.timeout})
	require.NoError(s.t, err)
	require.NoError(s.t, ep.Serve(l))
	var knowing sync.WaitGroup
	knowing.Go(func() {
		for {
			v, err := p.session.Next(context.Background())
			if err != nil {
				return
			}
			for _, m := range v.Of(cluster.Attention) {
				_ = ep.SetPeer(m.ID, m.Addr, m.Epoch) // fails once the endpoint is closed
			}
		}
	})
	s.t.Cleanup(func() {
		p.session.Close()
		knowing.Wait()
		ctx, cancel := context.WithTimeout(context.Background(), s.timeout)
		defer cancel()
		_ = ep.Close(ctx) // fails where a peer does not answer the goodbye
	})
	return p
}

// TestExpertThatStandsStillIsLetGo: where an attention node reports that it waits for an
// expert node that makes no progress, the expert node is removed.
func TestExpertThatStandsStillIsLetGo(t *testing.T) {
	s := newStage(t)
	expert := s.deaf()
	o := nodeOptions()
	o.PeerTimeout, o.Transport, o.ExpertWait = s.timeout, "tcp", s.timeout
	n, err := deploy.NewNode(s.model, deploy.NodeOptions{
		Options: o, Role: cluster.Attention, Control: s.url, Listen: "127.0.0.1:0", Version: "test",
	})
	require.NoError(t, err)
	ctx, cancel := context.WithCancel(context.Background())
	var running sync.WaitGroup
	running.Go(func() { _ = n.Run(ctx) })
	defer func() {
		cancel()
		running.Wait()
		require.NoError(t, n.Close())
	}()
	s.capacity(o.MaxNumSeqs)
	_, err = ask(bounded(t), s.control.Engine, serve.Request{Prompt: []int32{1, 2, 3}, MaxTokens: 3, Logprobs: -1, PromptLogprobs: -1})
	var unavailable *serve.UnavailableError
	require.ErrorAs(t, err, &unavailable)
	require.ErrorContains(t, err, expert.session.Self.ID)
	require.NotContains(t, err.Error(), "context canceled")
	require.Contains(t, s.control.Members.Gone(expert.session.Self.ID), "it lives and has not moved for")
}

// TestAddressesOfTheDoorAreM2Ns: m2n can use every address that the front end admits.
func TestAddressesOfTheDoorAreM2Ns(t *testing.T) {
	ep, err := m2n.NewEndpoint(m2n.Config{ID: "a", Slots: 1, SlotBytes: 64})
	require.NoError(t, err)
	defer ep.Close(t.Context())
	for _, transports := range []string{"tcp", "shm", "ucx", "shm+tcp", "ucx+tcp", "shm+ucx+tcp"} {
		addr := transports + ":127.0.0.1:7000"
		require.NoError(t, cluster.ParseAddr(addr))
		require.NoError(t, ep.SetPeer(strings.ReplaceAll(transports, "+", "-"), addr, 1))
	}
	require.Error(t, cluster.ParseAddr("quic:127.0.0.1:7000"))
	require.Error(t, ep.SetPeer("b", "quic:127.0.0.1:7000", 1))
}
