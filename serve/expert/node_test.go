package expert_test

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
	"github.com/tandem-moe/tandem/serve/expert"
	"github.com/tandem-moe/tandem/serve/node/nodetest"
)

// peer is an attention node that a test plays: it asks expert 0 for one row of
// each layer, in its first step.
type peer struct {
	t     *testing.T
	ep    *m2n.Endpoint
	body  []m2n.Span
	layer int
}

// post sends a message; a dispatch is for the next layer. Micro-batch 0 is in
// flight.
func (p *peer) post(kind route.MessageKind) { p.postStep(kind, 1) }

// postStep is post for a step.
func (p *peer) postStep(kind route.MessageKind, step uint64) {
	h := route.Header{Kind: kind, InFlight: 1, Placement: 1}
	var body []m2n.Span
	if kind == route.Dispatch {
		h.Step, h.Layer, h.Rows, h.Pairs, body = step, p.layer, 1, 1, p.body
		p.layer++
	}
	_, err := p.ep.Post("expert", m2n.Message{Header: h.Append(nil), Body: body})
	require.NoError(p.t, err)
}

// answer waits for the next message.
func (p *peer) answer() m2n.Completion {
	ctx, cancel := context.WithTimeout(p.t.Context(), 10*time.Second)
	defer cancel()
	for {
		c, err := p.ep.Poll(ctx)
		require.NoError(p.t, err)
		if c.Kind == m2n.Received {
			return c
		}
	}
}

// withoutAttention is a device that computes experts and nothing else: it has none of
// the methods that attention, router and vocabulary take.
type withoutAttention struct{ kernel.ExpertDevice }

// startExpert runs an expert node of a fixture, on a device that computes no attention,
// and returns two peers of it.
func startExpert(t *testing.T, linger time.Duration) (*expert.Node, []*peer) {
	n, peers, _ := startExpertOf(t, linger, slog.New(slog.DiscardHandler), same)
	return n, peers
}

// same is a device as it is.
func same(dev kernel.ExpertDevice) kernel.ExpertDevice { return dev }

// startExpertOf is startExpert with a log, on a device of the test's, and returns the
// fixture too. The node knows again whom it has lost.
func startExpertOf(
	t *testing.T, linger time.Duration, log *slog.Logger, on func(kernel.ExpertDevice) kernel.ExpertDevice,
) (*expert.Node, []*peer, *nodetest.Model) {
	m := nodetest.Load(t, nodetest.CPU(t, kernel.CPUOptions{Threads: 1}))
	network := m2n.NewNetwork()
	endpoint := func(id string) *m2n.Endpoint {
		ep, err := m2n.NewEndpoint(m2n.Config{ID: id, Epoch: 1, Network: network})
		require.NoError(t, err)
		_, err = ep.Listen(t.Context(), "inproc:"+id)
		require.NoError(t, err)
		return ep
	}
	ep := endpoint("expert")
	n, err := expert.New(expert.Config{
		Spec: m.Spec, Device: on(withoutAttention{m.Device}), Endpoint: ep,
		Linger: linger, Log: log,
		Lost: func(id string) {
			ep.RemovePeer(id)
			_ = ep.SetPeer(id, "inproc:"+id, 1) // fails at the end
		},
	})
	require.NoError(t, err)
	n.Hold(route.Even(m.Spec.Sparse(), m.Spec.Router.Experts, 1), m.Experts)
	var peers []*peer
	for _, id := range []string{"a0", "a1"} {
		other := endpoint(id)
		require.NoError(t, other.SetPeer("expert", "inproc:expert", 1))
		require.NoError(t, ep.SetPeer(id, "inproc:"+id, 1))
		peers = append(peers, &peer{t: t, ep: other, body: nodetest.OneRow(t, m.Device, other, m.Spec.Hidden)})
	}
	ctx, cancel := context.WithCancel(context.Background())
	var running sync.WaitGroup
	running.Go(func() {
		if err := n.Run(ctx); err != nil {
			t.Errorf("the node ended: %v", err)
		}
	})
	t.Cleanup(func() {
		cancel()
		running.Wait()
		soon, stop := context.WithTimeout(context.Background(), time.Second)
		defer stop()
		for _, ep := range []*m2n.Endpoint{peers[0].ep, peers[1].ep, ep} {
			_ = ep.Close(soon)
		}
		n.Free()
	})
	return n, peers, m
}

// TestHeldMessageOutlivesOtherCompletions holds one node's message back for
// another node that stays silent, while completions come that have nothing to do
// with it: the linger ends all the same.
func TestHeldMessageOutlivesOtherCompletions(t *testing.T) {
	node, peers := startExpert(t, 300*time.Millisecond)
	for _, p := range peers {
		p.post(route.Status)
	}
	for _, p := range peers {
		p.post(route.Dispatch)
	}
	first := []m2n.Completion{peers[0].answer(), peers[1].answer()}
	peers[0].ep.Release(first[0])
	peers[0].post(route.Dispatch)
	require.Eventually(t, func() bool { return held(node) }, 5*time.Second, time.Millisecond)
	peers[1].ep.Release(first[1]) // the expert node hears that its answer is through
	peers[1].post(route.Status)
	begin := time.Now()
	peers[0].ep.Release(peers[0].answer())
	require.Less(t, time.Since(begin), 5*time.Second)
	require.Equal(t, 1, node.Stats().Gather.Linger)
}

// held says whether the node has received a message that it has not run.
func held(n *expert.Node) bool {
	s := n.Stats()
	return s.Transfer.Count() == 3 && s.Gather.Messages == 2
}

// TestExpertRefusesAnotherWire: rows in a format that the node does not take are
// the sender's loss, and nobody else's.
func TestExpertRefusesAnotherWire(t *testing.T) {
	_, peers := startExpert(t, 0)
	h := route.Header{Kind: route.Dispatch, InFlight: 1, Step: 1, Rows: 1, Pairs: 1, Placement: 1, Wire: route.Wire{Rows: kernel.RowBF16}}
	_, err := peers[0].ep.Post("expert", m2n.Message{Header: h.Append(nil), Body: peers[0].body})
	require.NoError(t, err)
	ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
	defer cancel()
	for lost := false; !lost; {
		c, err := peers[0].ep.Poll(ctx)
		require.NoError(t, err)
		require.NotEqual(t, m2n.Received, c.Kind, "an answer")
		lost = c.Kind == m2n.Lost
	}
	peers[1].post(route.Dispatch)
	peers[1].ep.Release(peers[1].answer())
}

// stopped is a device that stops where a run begins, once, until it may go on.
type stopped struct {
	kernel.ExpertDevice
	once        sync.Once
	began, goOn chan struct{}
}

func (d *stopped) Record() kernel.Event {
	d.once.Do(func() {
		close(d.began)
		<-d.goOn
	})
	return d.ExpertDevice.Record()
}

// TestAnswersKeepToTheirPair: an attention node loses the pair while its rows are
// computed, and makes another under the same ids. The results of before do not come by
// it: the node has not asked for them by this pair, and takes whoever sends them for
// one that does what it should not.
func TestAnswersKeepToTheirPair(t *testing.T) {
	dev := &stopped{began: make(chan struct{}), goOn: make(chan struct{})}
	log := slog.New(slog.DiscardHandler)
	_, peers, _ := startExpertOf(t, 0, log, func(inner kernel.ExpertDevice) kernel.ExpertDevice {
		dev.ExpertDevice = inner
		return dev
	})
	p := peers[0]
	p.post(route.Dispatch)
	<-dev.began
	p.ep.RemovePeer("expert")
	require.NoError(t, p.ep.SetPeer("expert", "inproc:expert", 1))
	close(dev.goOn)
	ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
	defer cancel()
	for lost := false; !lost; { // the expert node may call by itself, where it has something to say
		c, err := p.ep.Poll(ctx)
		require.NoError(t, err)
		require.NotEqual(t, m2n.Received, c.Kind)
		lost = c.Kind == m2n.Lost
	}
	peers[1].post(route.Dispatch)
	peers[1].ep.Release(peers[1].answer()) // by now it has answered the first one
	p.layer = 0
	for pair := true; pair; {
		p.postStep(route.Dispatch, 2)
		c := p.next()
		if pair = c.Kind == m2n.Lost; pair { // the expert node had not noticed
			p.layer = 0
			p.ep.RemovePeer("expert")
			require.NoError(t, p.ep.SetPeer("expert", "inproc:expert", 1))
			continue
		}
		h, err := route.ParseHeader(c.Header)
		require.NoError(t, err)
		require.Equal(t, uint64(2), h.Step)
		p.ep.Release(c)
	}
}

// next waits for a message, or a loss.
func (p *peer) next() m2n.Completion {
	ctx, cancel := context.WithTimeout(p.t.Context(), 10*time.Second)
	defer cancel()
	for {
		c, err := p.ep.Poll(ctx)
		require.NoError(p.t, err)
		if c.Kind != m2n.Sent {
			return c
		}
	}
}
