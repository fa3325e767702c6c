package serve_test

import (
	"context"
	"log/slog"
	"os"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/tandem-moe/tandem/internal/oracle"
	"github.com/tandem-moe/tandem/kernel"
	"github.com/tandem-moe/tandem/layer"
	"github.com/tandem-moe/tandem/m2n"
	"github.com/tandem-moe/tandem/model"
	"github.com/tandem-moe/tandem/model/checkpoint"
	"github.com/tandem-moe/tandem/route"
	"github.com/tandem-moe/tandem/serve"
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
func (p *peer) post(kind route.MessageKind) {
	h := route.Header{Kind: kind, InFlight: 1}
	var body []m2n.Span
	if kind == route.Dispatch {
		h.Step, h.Layer, h.Rows, h.Pairs, body = 1, p.layer, 1, 1, p.body
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

// startExpert runs an expert node of a fixture, and returns two peers of it.
func startExpert(t *testing.T, linger time.Duration) (*serve.ExpertNode, []*peer) {
	dir := oracle.Models(t)[0]
	spec, err := model.ReadSpec(os.DirFS(dir))
	require.NoError(t, err)
	ckpt, err := checkpoint.Open(dir)
	require.NoError(t, err)
	defer ckpt.Close()
	dev := cpu(t, kernel.CPUOptions{Threads: 1})
	placement := route.Even(spec.Router.Experts, 1)
	weights, err := layer.LoadExperts(t.Context(), dev, ckpt, spec, placement.Experts(0), nil)
	require.NoError(t, err)
	network := m2n.NewNetwork()
	endpoint := func(id string) *m2n.Endpoint {
		ep, err := m2n.NewEndpoint(m2n.Config{ID: id, Epoch: 1, Network: network})
		require.NoError(t, err)
		_, err = ep.Listen(t.Context(), "inproc:"+id)
		require.NoError(t, err)
		return ep
	}
	expert := endpoint("expert")
	node, err := serve.NewExpertNode(serve.ExpertConfig{
		Spec: spec, Device: dev, Weights: weights, Placement: placement, Endpoint: expert,
		Linger: linger, Log: slog.New(slog.DiscardHandler),
	})
	require.NoError(t, err)
	var peers []*peer
	for _, id := range []string{"a0", "a1"} {
		ep := endpoint(id)
		require.NoError(t, ep.SetPeer("expert", "inproc:expert", 1))
		require.NoError(t, expert.SetPeer(id, "inproc:"+id, 1))
		peers = append(peers, &peer{t: t, ep: ep, body: oneRow(t, dev, ep, spec.Hidden)})
	}
	ctx, cancel := context.WithCancel(context.Background())
	var running sync.WaitGroup
	running.Go(func() {
		if err := node.Run(ctx); err != nil {
			t.Errorf("the node ended: %v", err)
		}
	})
	t.Cleanup(func() {
		cancel()
		running.Wait()
		soon, stop := context.WithTimeout(context.Background(), time.Second)
		defer stop()
		for _, ep := range []*m2n.Endpoint{peers[0].ep, peers[1].ep, expert} {
			_ = ep.Close(soon)
		}
		node.Free()
	})
	return node, peers
}

// oneRow is a dispatch's body: one row, its gate weight, and its pair.
func oneRow(t *testing.T, dev kernel.Device, ep *m2n.Endpoint, hidden int) []m2n.Span {
	var body []m2n.Span
	for _, n := range []int{hidden, 1} {
		b, err := dev.Alloc(kernel.F32, n)
		require.NoError(t, err)
		body = append(body, m2n.Span{Region: ep.Register(b.Bytes(), b), Len: 4 * n})
	}
	pairs := make([]byte, route.PairsSize(1))
	route.PutPairs(pairs, route.Packet{Row: []int32{0}, Expert: []int32{0}, Rank: []int32{0}})
	return append(body, m2n.Span{Region: ep.Register(pairs, nil), Len: len(pairs)})
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
func held(n *serve.ExpertNode) bool {
	s := n.Stats()
	return s.Transfer.Count() == 3 && s.Gather.Messages == 2
}

// TestExpertRefusesAnotherWire: rows in a format that the node does not take are
// the sender's loss, and nobody else's.
func TestExpertRefusesAnotherWire(t *testing.T) {
	_, peers := startExpert(t, 0)
	h := route.Header{Kind: route.Dispatch, InFlight: 1, Step: 1, Rows: 1, Pairs: 1, Wire: route.Wire{Rows: kernel.RowBF16}}
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
