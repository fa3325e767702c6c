package attention_test

import (
	"context"
	"log/slog"
	"slices"
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
	own     *m2n.Endpoint // the node's
	experts map[string]*m2n.Endpoint
	asks    map[ask][]int32 // where the results of a dispatch belong
	reports chan serve.Report
	pairs   chan []pairs.Pair
	placed  chan uint64 // the versions of placements that the node has come to
}

// ask is a dispatch to an expert node.
type ask struct {
	id    string
	step  uint64
	layer int
}

// newStage starts an attention node of two expert nodes, expert-0 and expert-1, that
// waits for them so long.
func newStage(t *testing.T, wait time.Duration, microBatches int) *stage {
	t.Helper()
	s := &stage{
		Model: nodetest.Load(t, nodetest.CPU(t, kernel.CPUOptions{Threads: 1})), t: t, network: m2n.NewNetwork(),
		experts: map[string]*m2n.Endpoint{}, asks: map[ask][]int32{}, reports: make(chan serve.Report, 100),
		pairs: make(chan []pairs.Pair, 10000), placed: make(chan uint64, 100),
	}
	var end context.CancelFunc
	s.ctx, end = context.WithTimeout(t.Context(), 20*time.Second)
	s.own = s.endpoint("attention")
	var err error
	s.node, err = attention.New(attention.Config{
		Spec: s.Spec, Device: s.Device, Weights: s.Attention, Cache: s.Cache, ModelHash: "m", Numerics: "n",
		Placement: route.Even(s.Spec.Sparse(), s.Spec.Router.Experts, 2), Endpoint: s.own,
		MicroBatches: microBatches, MaxNumSeqs: microBatches, MaxBatchedTokens: 8, MaxModelLen: 32, MaxWaiting: 8, ExpertWait: wait,
		Reports: func(reports []serve.Report) {
			for _, r := range reports {
				s.reports <- r
			}
		},
		Pairs: func(p []pairs.Pair) { s.pairs <- p }, Placed: func(version uint64) { s.placed <- version },
		Log: slog.New(slog.DiscardHandler),
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
		_ = s.own.Close(soon)
		s.node.Free()
	})
	s.expert("expert-0")
	s.expert("expert-1")
	s.places("expert-0", "expert-1")
	s.greeted("expert-0")
	s.greeted("expert-1")
	s.up("expert-0", "expert-1")
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

// up waits until the node is connected with its expert nodes.
func (s *stage) up(ids ...string) {
	s.t.Helper()
	for {
		select {
		case p := <-s.pairs:
			if !slices.ContainsFunc(ids, func(id string) bool {
				return !slices.ContainsFunc(p, func(q pairs.Pair) bool { return q.ID == id && q.State == pairs.Up })
			}) {
				return
			}
		case <-s.ctx.Done():
			s.t.Fatal("the node does not reach its expert nodes")
		}
	}
}

// asked takes a dispatch, and passes over what says which micro-batches are in flight.
func (s *stage) asked(id string) route.Header {
	s.t.Helper()
	for {
		h, c := s.next(id)
		s.take(id, h, c)
		if h.Kind == route.Dispatch {
			return h
		}
		require.Equal(s.t, route.Status, h.Kind)
	}
}

// take notes where the results of a dispatch belong, and gives its memory back.
func (s *stage) take(id string, h route.Header, c m2n.Completion) {
	s.t.Helper()
	if h.Kind == route.Dispatch {
		var pairs route.Pairs
		require.NoError(s.t, route.ReadPairs(&pairs, c.Body[2].Bytes(), h.Rows, h.Pairs))
		s.asks[askOf(id, h)] = pairs.Place
	}
	s.experts[id].Release(c)
}

func askOf(id string, h route.Header) ask { return ask{id, h.Step, h.Layer} }

// answer returns results, all of them zero.
func (s *stage) answer(id string, h route.Header) {
	s.t.Helper()
	s.answerAs(id, h, s.asks[askOf(id, h)])
}

// answerAs is answer with results for other places.
func (s *stage) answerAs(id string, h route.Header, places []int32) {
	s.t.Helper()
	h.Kind = route.Return
	results, err := s.Device.Alloc(kernel.HostVisible, kernel.F32, max(1, len(places)*s.Spec.Hidden))
	require.NoError(s.t, err)
	encoded := make([]byte, route.PlacesSize(len(places)))
	route.PutPlaces(encoded, places)
	ep := s.experts[id]
	_, err = ep.Post("attention", m2n.Message{Header: h.Append(nil), Body: []m2n.Span{
		{Region: ep.Register(results.Bytes(), results), Len: 4 * len(places) * s.Spec.Hidden},
		{Region: ep.Register(encoded, nil), Len: len(encoded)},
	}})
	require.NoError(s.t, err)
}

// serves answers all dispatches of some expert nodes until a report comes.
func (s *stage) serves(ids ...string) serve.Report {
	s.t.Helper()
	return s.watches(func(route.Header) {}, ids...)
}

// watches is serves, and shows the headers of the dispatches.
func (s *stage) watches(see func(route.Header), ids ...string) serve.Report {
	s.t.Helper()
	for {
		for _, id := range ids {
			c, ok := s.experts[id].TryPoll()
			if !ok || c.Kind != m2n.Received {
				continue
			}
			h, err := route.ParseHeader(c.Header)
			require.NoError(s.t, err)
			s.take(id, h, c)
			if h.Kind == route.Dispatch {
				see(h)
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
	s := newStage(t, 0, 1)
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
	s := newStage(t, time.Minute, 1)
	s.node.Submit(short)
	first := s.asked("expert-0")
	s.asked("expert-1")
	require.NoError(t, s.experts["expert-1"].Close(s.ctx))
	h, c := s.next("expert-0")
	require.Equal(t, route.Status, h.Kind)
	require.Zero(t, h.InFlight)
	s.experts["expert-0"].Release(c)
	s.answer("expert-0", first)       // it did not know
	time.Sleep(20 * time.Millisecond) // the pass through the schedule has ended
	before := s.node.Progress()
	require.Eventually(t, func() bool { return s.node.Progress().Steps > before.Steps+5 }, 5*time.Second, time.Millisecond,
		"a node that waits does not stand still")
	require.Empty(t, s.node.Progress().Awaited)

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
	s := newStage(t, 50*time.Millisecond, 1)
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
	s.up("expert-0", "expert-2")
	late.ID = 3
	s.node.Submit(late)
	require.NoError(t, s.serves("expert-0", "expert-2").Err)
}

// TestPairIsMadeAnew: a pair is lost although both nodes live. It is made again under
// the same ids, and the request goes on.
func TestPairIsMadeAnew(t *testing.T) {
	s := newStage(t, time.Minute, 1)
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

// TestPostFindsThePairGone: a pair may go between two completions, by another
// goroutine's doing or the network's, so that a post is the first to find out. That is
// a loss as any other.
func TestPostFindsThePairGone(t *testing.T) {
	for name, lose := range map[string]func(s *stage){
		"removed": func(s *stage) { s.own.RemovePeer("expert-1") },
		"lost":    func(*stage) {},
	} {
		t.Run(name, func(t *testing.T) {
			s := newStage(t, time.Minute, 1)
			lose(s)
			s.experts["expert-1"].RemovePeer("attention")
			require.NoError(t, s.experts["expert-1"].SetPeer("attention", "inproc:attention", 0))
			s.node.Submit(short)
			require.NoError(t, s.serves("expert-0", "expert-1").Err)
		})
	}
}

// TestLossAnywhere: an expert node is lost once it has answered so many layers of two
// micro-batches, and another takes its place. Whatever the node was about to do, the
// tokens are those of a run in which nobody is lost.
func TestLossAnywhere(t *testing.T) {
	two := func(s *stage) {
		for id := range uint64(2) {
			r := short
			r.ID, r.MaxTokens, r.Prompt = id+1, 2, r.Prompt[id:]
			s.node.Submit(r)
		}
	}
	collect := func(s *stage, ids ...string) map[uint64][]int32 {
		got := map[uint64][]int32{}
		for len(got[1]) < 2 || len(got[2]) < 2 {
			r := s.serves(ids...)
			require.NoError(t, r.Err)
			require.Equal(t, len(got[r.ID]), r.Event.Index)
			got[r.ID] = append(got[r.ID], r.Event.Token)
		}
		return got
	}
	undisturbed := newStage(t, time.Minute, 2)
	two(undisturbed)
	want := collect(undisturbed, "expert-0", "expert-1")
	layers := 2 * 2 * len(undisturbed.Spec.SparseLayers()) // of two steps of two micro-batches
	for after := range layers {
		s := newStage(t, time.Minute, 2)
		two(s)
		for range after {
			for _, id := range []string{"expert-1", "expert-0"} {
				s.answer(id, s.asked(id))
			}
		}
		require.NoError(t, s.experts["expert-1"].Close(s.ctx))
		s.expert("expert-2")
		s.places("expert-0", "expert-2")
		require.Equal(t, want, collect(s, "expert-0", "expert-2"), "lost after %d layers", after)
	}
}

// TestEachLossHasItsWait: an expert node that is lost after a step was concluded is
// waited for as long as the one before, also by the same request.
func TestEachLossHasItsWait(t *testing.T) {
	const wait = 300 * time.Millisecond
	s := newStage(t, wait, 1)
	long := short
	long.MaxTokens = 4
	s.node.Submit(long)
	gone, ids := "expert-1", []string{"expert-2", "expert-3"}
	for _, next := range ids {
		s.asked(gone)
		require.NoError(t, s.experts[gone].Close(s.ctx))
		lost := time.Now()
		time.Sleep(wait / 10)
		s.expert(next)
		s.places("expert-0", next)
		require.NoError(t, s.serves("expert-0", next).Err, "a step is concluded")
		time.Sleep(time.Until(lost.Add(wait)))
		gone = next
	}
	for r := (serve.Report{}); r.Event.Finish == ""; {
		r = s.serves("expert-0", gone)
		require.NoError(t, r.Err)
	}
}
