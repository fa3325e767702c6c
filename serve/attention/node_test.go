package attention_test

import (
	"context"
	"log/slog"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/tandem-moe/tandem/kernel"
	"github.com/tandem-moe/tandem/m2n"
	"github.com/tandem-moe/tandem/route"
	"github.com/tandem-moe/tandem/serve"
	"github.com/tandem-moe/tandem/serve/attention"
	"github.com/tandem-moe/tandem/serve/node/nodetest"
)

// TestResultsTwice: an expert node that returns its results a second time does not
// stand in for another, whose results are still to come: it is lost.
func TestResultsTwice(t *testing.T) {
	m := nodetest.Load(t, nodetest.CPU(t, kernel.CPUOptions{Threads: 1}))
	placement := route.Even(m.Spec.Router.Experts, 2)
	network := m2n.NewNetwork()
	ids := []string{"expert-0", "expert-1"}
	endpoints := map[string]*m2n.Endpoint{}
	for _, id := range append(ids, "attention") {
		ep, err := m2n.NewEndpoint(m2n.Config{ID: id, Network: network})
		require.NoError(t, err)
		_, err = ep.Listen(t.Context(), "inproc:"+id)
		require.NoError(t, err)
		endpoints[id] = ep
	}
	for _, id := range ids {
		require.NoError(t, endpoints["attention"].SetPeer(id, "inproc:"+id, 0))
		require.NoError(t, endpoints[id].SetPeer("attention", "inproc:attention", 0))
	}
	n, err := attention.New(attention.Config{
		Spec: m.Spec, Device: m.Device, Weights: m.Attention, Cache: m.Cache, ModelHash: "m", Numerics: "n", Placement: placement,
		Endpoint: endpoints["attention"], MicroBatches: 1, MaxNumSeqs: 1, MaxBatchedTokens: 8, MaxModelLen: 32, MaxWaiting: 8,
		Reports: func([]serve.Report) {}, Log: slog.New(slog.DiscardHandler),
	})
	require.NoError(t, err)
	n.SetExperts(ids)
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
	defer cancel()
	ended := make(chan error, 1)
	go func() { ended <- n.Run(ctx) }()
	n.Submit(serve.Request{ID: 1, Prompt: []int32{1, 2, 3}, MaxTokens: 1, Logprobs: -1, PromptLogprobs: -1})

	c := nodetest.Received(ctx, t, endpoints[ids[0]])
	h, err := route.ParseHeader(c.Header)
	require.NoError(t, err)
	h.Kind = route.Return
	results, err := m.Device.Alloc(kernel.HostVisible, kernel.F32, max(1, h.Pairs*m.Spec.Hidden))
	require.NoError(t, err)
	body := []m2n.Span{{Region: endpoints[ids[0]].Register(results.Bytes(), results), Len: 4 * h.Pairs * m.Spec.Hidden}}
	for range 2 {
		_, err = endpoints[ids[0]].Post("attention", m2n.Message{Header: h.Append(nil), Body: body})
		require.NoError(t, err)
	}
	var lost *attention.PeerLostError
	require.ErrorAs(t, <-ended, &lost)
	require.Equal(t, ids[0], lost.Peer)
	require.ErrorContains(t, lost, "an unexpected message: kind 2, step 1, layer 0, micro-batch 0")
	soon, stop := context.WithTimeout(context.Background(), time.Second)
	defer stop()
	for _, ep := range endpoints {
		_ = ep.Close(soon) // the other node's message has not been taken
	}
	n.Free()
}
