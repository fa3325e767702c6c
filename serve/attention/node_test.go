package attention_test

import (
	"context"
	"log/slog"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/tandem-moe/tandem/kernel"
	"github.com/tandem-moe/tandem/m2n"
	"github.com/tandem-moe/tandem/route"
	"github.com/tandem-moe/tandem/serve"
	"github.com/tandem-moe/tandem/serve/attention"
	"github.com/tandem-moe/tandem/serve/attention/pairs"
	"github.com/tandem-moe/tandem/serve/node/nodetest"
)

// stage is an attention node whose expert nodes are endpoints in the hands of a test.
type stage struct {
	*nodetest.Model
	t       *testing.T
	ctx     context.Context
	network *m2n.Network
	node    *attention.Node
	experts map[string]*m2n.Endpoint
	reports chan serve.Report
	pairs   chan []pairs.Pair
}

// newStage starts an attention node of two expert nodes that waits for them so long.
func newStage(t *testing.T, wait time.Duration) *stage {
	t.Helper()
	s := &stage{
		Model: nodetest.Load(t, nodetest.CPU(t, kernel.CPUOptions{Threads: 1})), t: t, network: m2n.NewNetwork(),
		experts: map[string]*m2n.Endpoint{}, reports: make(chan serve.Report, 100), pairs: make(chan []pairs.Pair, 10000),
	}
	var end context.CancelFunc
	s.ctx, end = context.WithTimeout(t.Context(), 20*time.Second)
	ep := s.endpoint("attention")
	var err error
	s.node, err = attention.New(attention.Config{
		Spec: s.Spec, Device: s.Device, Weights: s.Attention, Cache: s.Cache, ModelHash: "m", Numerics: "n", Placement: route.Even(s.Spec.Router.Experts, 2),
		Endpoint: ep, MicroBatches: 1, MaxNumSeqs: 1, MaxBatchedTokens: 8, MaxModelLen: 32, MaxWaiting: 8, ExpertWait: wait,
		Reports: func(reports []serve.Report) {
			for _, r := range reports {
				s.reports <- r
			}
		},
		Pairs: func(p []pairs.Pair) { s.pairs <- p }, Log: slog.New(slog.DiscardHandler),
	})
	require.NoError(t, err)
	var running sync.WaitGroup
	running.Go(func() {
		if err := s.node.Run(s.ctx); err != nil {
			t.Errorf("the node has ended: %v", err)
		}
	})
	t.Cleanup(func() {
		end()
		running.Wait()
		soon, stop := context.WithTimeout(context.Background(), time.Second)
		defer stop()
		for _, ep := range s.experts {
			_ = ep.Close(soon) // what a test has not taken
		}
		_ = ep.Close(soon)
		s.node.Free()
	})
	return s
}

func (s *stage) endpoint(id string) *m2n.Endpoint {
	s.t.Helper()
	ep, err := m2n.NewEndpoint(m2n.Config{ID: id, Network: s.network})
	require.NoError(s.t, err)
	_, err = ep.Listen(s.t.Context(), "inproc:"+id)
	require.NoError(s.t, err)
	return ep
}

// expert starts an expert node.
func (s *stage) expert(id string) {
	s.t.Helper()
	s.experts[id] = s.endpoint(id)
	require.NoError(s.t, s.experts[id].SetPeer("attention", "inproc:attention", 0))
}

// places tells the node who its expert nodes are.
func (s *stage) places(ids ...string) {
	members := make([]pairs.Member, 2)
	for i, id := range ids {
		members[i] = pairs.Member{ID: id, Addr: "inproc:" + id}
	}
	s.node.SetExperts(members)
}

// next is an expert node's next message.
func (s *stage) next(id string) (route.Header, m2n.Completion) {
	s.t.Helper()
	c := nodetest.Received(s.ctx, s.t, s.experts[id])
	h, err := route.ParseHeader(c.Header)
	require.NoError(s.t, err)
	return h, c
}

// greeted takes a node's hello.
func (s *stage) greeted(id string) {
	s.t.Helper()
	h, c := s.next(id)
	require.Equal(s.t, route.Status, h.Kind)
	require.Zero(s.t, h.InFlight)
	s.experts[id].Release(c)
}

// asked takes a dispatch.
func (s *stage) asked(id string) route.Header {
	s.t.Helper()
	h, c := s.next(id)
	require.Equal(s.t, route.Dispatch, h.Kind, "%+v", h)
	s.experts[id].Release(c)
	return h
}

// answer returns results, all of them zero.
func (s *stage) answer(id string, h route.Header) {
	s.t.Helper()
	h.Kind = route.Return
	results, err := s.Device.Alloc(kernel.HostVisible, kernel.F32, max(1, h.Pairs*s.Spec.Hidden))
	require.NoError(s.t, err)
	_, err = s.experts[id].Post("attention", m2n.Message{Header: h.Append(nil), Body: []m2n.Span{
		{Region: s.experts[id].Register(results.Bytes(), results), Len: 4 * h.Pairs * s.Spec.Hidden},
	}})
	require.NoError(s.t, err)
}

// serves answers all dispatches of some expert nodes until a report comes.
func (s *stage) serves(ids ...string) serve.Report {
	s.t.Helper()
	for {
		for _, id := range ids {
			c, ok := s.experts[id].TryPoll()
			if !ok || c.Kind != m2n.Received {
				continue
			}
			h, err := route.ParseHeader(c.Header)
			require.NoError(s.t, err)
			s.experts[id].Release(c)
			if h.Kind == route.Dispatch {
				s.answer(id, h)
			}
		}
		select {
		case r := <-s.reports:
			return r
		case <-s.ctx.Done():
			s.t.Fatal("no report")
		case <-time.After(50 * time.Microsecond):
		}
	}
}

// report waits for a report.
func (s *stage) report() serve.Report {
	s.t.Helper()
	select {
	case r := <-s.reports:
		return r
	case <-s.ctx.Done():
		s.t.Fatal("no report")
	}
	panic("unreachable")
}

var short = serve.Request{ID: 1, Prompt: []int32{1, 2, 3}, MaxTokens: 1, Logprobs: -1, PromptLogprobs: -1}

// TestResultsTwice: an expert node that returns its results a second time does not
// stand in for another, whose results are still to come: it is lost.
func TestResultsTwice(t *testing.T) {
	s := newStage(t, 0)
	s.expert("expert-0")
	s.expert("expert-1")
	s.places("expert-0", "expert-1")
	s.greeted("expert-0")
	s.greeted("expert-1")
	s.node.Submit(short)
	h := s.asked("expert-0")
	s.answer("expert-0", h)
	s.answer("expert-0", h)
	var unavailable *serve.UnavailableError
	require.ErrorAs(t, s.report().Err, &unavailable)
	require.Equal(t, "expert node expert-0 is lost: micro-batch 0: results of step 1, layer 0 from place 0, which were not asked for or have come before;"+
		" the exchange is awaiting at step 1, layer 0; the request may be sent again", unavailable.Reason)
}

// TestStepIsRepeated: one of two expert nodes is lost between post and results. The
// other hears that nothing is in flight, what it still returns is dropped, and once
// there is another node in the place, the step is asked for again, from its first
// layer, under a number of its own. The request ends as if nothing had happened.
func TestStepIsRepeated(t *testing.T) {
	s := newStage(t, time.Minute)
	s.expert("expert-0")
	s.expert("expert-1")
	s.places("expert-0", "expert-1")
	s.greeted("expert-0")
	s.greeted("expert-1")
	s.node.Submit(short)
	first := s.asked("expert-0")
	s.asked("expert-1")
	require.NoError(t, s.experts["expert-1"].Close(s.ctx))
	h, c := s.next("expert-0")
	require.Equal(t, route.Status, h.Kind)
	require.Zero(t, h.InFlight)
	s.experts["expert-0"].Release(c)
	s.answer("expert-0", first) // it did not know

	s.expert("expert-2")
	s.places("expert-0", "expert-2")
	s.greeted("expert-2")
	again, other := s.asked("expert-0"), s.asked("expert-2")
	require.Equal(t, first.Layer, again.Layer)
	require.Greater(t, again.Step, first.Step)
	require.Equal(t, again.Step, other.Step)
	require.Equal(t, first.Rows, again.Rows)
	s.answer("expert-0", again)
	s.answer("expert-2", other)
	r := s.serves("expert-0", "expert-2")
	require.NoError(t, r.Err)
	require.Equal(t, serve.FinishLength, r.Event.Finish)
	require.Zero(t, r.Event.Index)
}

// TestNobodyTakesThePlace: requests end once they have waited as long as they may, and
// say for whom; the node lives on, and serves again when all are there.
func TestNobodyTakesThePlace(t *testing.T) {
	s := newStage(t, 50*time.Millisecond)
	s.expert("expert-0")
	s.expert("expert-1")
	s.places("expert-0", "expert-1")
	s.greeted("expert-0")
	s.greeted("expert-1")
	s.node.Submit(short)
	s.asked("expert-1")
	require.NoError(t, s.experts["expert-1"].Close(s.ctx))
	began := time.Now()
	s.places("expert-0")
	r := s.report()
	require.GreaterOrEqual(t, time.Since(began), 40*time.Millisecond)
	var unavailable *serve.UnavailableError
	require.ErrorAs(t, r.Err, &unavailable)
	require.Regexp(t, `^expert node expert-1 is lost: .*; after 50ms there is none in its place that this node reaches; the request may be sent again$`, unavailable.Reason)
	late := short
	late.ID = 2
	s.node.Submit(late)
	require.ErrorAs(t, s.report().Err, &unavailable, "one that comes now does not wait")

	s.expert("expert-2")
	s.places("expert-0", "expert-2")
	s.greeted("expert-2")
	for up := false; !up; {
		p := <-s.pairs
		up = p[0].State == pairs.Up && p[1].State == pairs.Up && p[1].ID == "expert-2"
	}
	late.ID = 3
	s.node.Submit(late)
	require.NoError(t, s.serves("expert-0", "expert-2").Err)
}

// TestPairIsMadeAnew: a pair is lost although both nodes live. It is made again under
// the same ids, and the request goes on.
func TestPairIsMadeAnew(t *testing.T) {
	s := newStage(t, time.Minute)
	s.expert("expert-0")
	s.expert("expert-1")
	s.places("expert-0", "expert-1")
	s.greeted("expert-0")
	s.greeted("expert-1")
	s.node.Submit(short)
	s.asked("expert-0")
	first := s.asked("expert-1")
	s.experts["expert-1"].RemovePeer("attention")
	require.NoError(t, s.experts["expert-1"].SetPeer("attention", "inproc:attention", 0))
	s.greeted("expert-1")
	again := s.asked("expert-1")
	require.Greater(t, again.Step, first.Step)
	s.answer("expert-1", again)
	require.NoError(t, s.serves("expert-0", "expert-1").Err)
}
