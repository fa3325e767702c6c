package serve_test

import (
	"context"
	"log/slog"
	"os"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/tandem-moe/tandem/internal/oracle"
	"github.com/tandem-moe/tandem/kernel"
	"github.com/tandem-moe/tandem/kernel/kerneltest"
	"github.com/tandem-moe/tandem/layer"
	"github.com/tandem-moe/tandem/m2n"
	"github.com/tandem-moe/tandem/model"
	"github.com/tandem-moe/tandem/model/checkpoint"
	"github.com/tandem-moe/tandem/route"
	"github.com/tandem-moe/tandem/serve"
)

// scarce is a small model on a device that can run out of memory.
type scarce struct {
	t         *testing.T
	dev       *kerneltest.Ledger
	spec      *model.Spec
	ckpt      *checkpoint.Checkpoint
	attention *layer.AttentionWeights
	experts   *layer.ExpertWeights
	cache     *layer.Cache
	placement route.Placement
}

func newScarce(t *testing.T) *scarce {
	t.Helper()
	dir := oracle.Models(t)[0]
	s := &scarce{t: t, dev: kerneltest.NewLedger(cpu(t, kernel.CPUOptions{Threads: 1}))}
	var err error
	s.spec, err = model.ReadSpec(os.DirFS(dir))
	require.NoError(t, err)
	s.ckpt, err = checkpoint.Open(dir)
	require.NoError(t, err)
	t.Cleanup(func() { require.NoError(t, s.ckpt.Close()) })
	s.placement = route.Even(s.spec.Router.Experts, 1)
	s.attention, err = layer.LoadAttention(t.Context(), s.dev, s.ckpt, s.spec, 64, nil)
	require.NoError(t, err)
	s.experts, err = layer.LoadExperts(t.Context(), s.dev, s.ckpt, s.spec, s.placement.Experts(0), nil)
	require.NoError(t, err)
	s.cache, err = layer.NewCache(s.dev, s.spec, 4, kernel.KVBlock)
	require.NoError(t, err)
	return s
}

func (s *scarce) endpoint(id string) *m2n.Endpoint {
	s.t.Helper()
	ep, err := m2n.NewEndpoint(m2n.Config{ID: id})
	require.NoError(s.t, err)
	s.t.Cleanup(func() { require.NoError(s.t, ep.Close(context.Background())) })
	return ep
}

// loads loads the attention part, and gives it back.
func (s *scarce) loads() error {
	w, err := layer.LoadAttention(s.t.Context(), s.dev, s.ckpt, s.spec, 64, nil)
	if err == nil {
		w.Free(s.dev)
	}
	return err
}

// caches makes a cache and activations.
func (s *scarce) caches() error {
	c, err := layer.NewCache(s.dev, s.spec, 4, kernel.KVBlock)
	if err != nil {
		return err
	}
	defer c.Free(s.dev)
	a := layer.NewAttention(s.dev, s.spec, s.attention, c)
	rows, err := a.NewRows(8)
	if err != nil {
		return err
	}
	a.FreeRows(rows)
	return nil
}

// attends makes an attention node of two micro-batches.
func (s *scarce) attends() error {
	n, err := serve.NewAttentionNode(serve.AttentionConfig{
		Spec: s.spec, Device: s.dev, Weights: s.attention, Cache: s.cache, ModelHash: "m", Numerics: "n", Placement: s.placement,
		Endpoint: s.endpoint("attention"), MicroBatches: 2, MaxNumSeqs: 2, MaxBatchedTokens: 8, MaxModelLen: 32, MaxWaiting: 8,
		Reports: func([]serve.Report) {}, Log: slog.New(slog.DiscardHandler),
	})
	if err == nil {
		n.Free()
	}
	return err
}

// calls makes the plain version, and computes two tokens by a narrow wire.
func (s *scarce) calls() error {
	d, err := serve.NewDirect(s.dev, s.spec, s.attention, s.experts, s.cache, 8)
	if err != nil {
		return err
	}
	defer d.Free()
	d.Wire, d.ExpertNodes = route.Wire{Rows: kernel.RowBF16, Combine: route.Partial}, 2
	return d.Forward(s.t.Context(), []int32{1, 2}, []int32{0, 1}, []kernel.Sequence{{Rows: 2, Pages: []int32{0}}})
}

// serves runs an expert node over one row of each layer, by a narrow wire, until
// it has answered, or failed.
func (s *scarce) serves() error {
	network := m2n.NewNetwork()
	wire := route.Wire{Rows: kernel.RowBF16, Combine: route.Partial}
	endpoint := func(id, peer string) *m2n.Endpoint {
		ep, err := m2n.NewEndpoint(m2n.Config{ID: id, Network: network})
		require.NoError(s.t, err)
		_, err = ep.Listen(s.t.Context(), "inproc:"+id)
		require.NoError(s.t, err)
		require.NoError(s.t, ep.SetPeer(peer, "inproc:"+peer, 0))
		return ep
	}
	expert, attention := endpoint("expert", "attention"), endpoint("attention", "expert")
	n, err := serve.NewExpertNode(serve.ExpertConfig{
		Spec: s.spec, Device: s.dev, Weights: s.experts, Placement: s.placement, Wire: wire, Endpoint: expert, Log: slog.New(slog.DiscardHandler),
	})
	require.NoError(s.t, err)
	plain := cpu(s.t, kernel.CPUOptions{Threads: 1})
	body := oneRow(s.t, plain, attention, s.spec.Hidden)
	body[0].Len = wire.RowBytes(s.spec.Hidden)
	ctx, cancel := context.WithTimeout(s.t.Context(), 20*time.Second)
	ended := make(chan error, 1)
	go func() { ended <- n.Run(ctx) }()
	for step := range 3 {
		h := route.Header{Kind: route.Dispatch, InFlight: 1, Step: uint64(step), Layer: s.spec.SparseLayers()[0], Rows: 1, Pairs: 1, Wire: wire}
		_, err = attention.Post("expert", m2n.Message{Header: h.Append(nil), Body: body})
		require.NoError(s.t, err)
		if err = answered(ctx, attention, ended); err != nil {
			break
		}
	}
	cancel()
	if err == nil {
		err = <-ended
	}
	soon, stop := context.WithTimeout(context.Background(), time.Second)
	defer stop()
	_ = attention.Close(soon) // what is not answered is still with the node
	_ = expert.Close(soon)
	n.Free()
	return err
}

// answered waits for a message to be answered, or for the node to end.
func answered(ctx context.Context, ep *m2n.Endpoint, ended <-chan error) error {
	for {
		if c, ok := ep.TryPoll(); ok {
			ep.Release(c)
			if c.Kind == m2n.Received {
				return nil
			}
			continue
		}
		select {
		case err := <-ended:
			return err
		case <-ctx.Done():
			return ctx.Err()
		case <-time.After(50 * time.Microsecond):
		}
	}
}

// TestEveryAllocationMayFail: whichever allocation of a piece of work fails, it is
// an error, and all that was allocated before is given back.
func TestEveryAllocationMayFail(t *testing.T) {
	for name, work := range map[string]func(*scarce) error{
		"attention weights": (*scarce).loads, "cache and rows": (*scarce).caches, "attention node": (*scarce).attends,
		"plain version": (*scarce).calls, "expert node": (*scarce).serves,
	} {
		t.Run(name, func(t *testing.T) {
			s := newScarce(t)
			before := s.dev.Live()
			tried := 0
			for n := 1; ; n++ {
				s.dev.FailAt(n)
				err := work(s)
				require.Equal(t, before, s.dev.Live(), "buffers after allocation %d has failed: %v", n, err)
				if !s.dev.Failed() {
					require.NoError(t, err)
					break
				}
				require.ErrorIs(t, err, kerneltest.ErrOutOfMemory, "allocation %d", n)
				tried++
			}
			require.Greater(t, tried, 2, "allocations that fail")
		})
	}
}
