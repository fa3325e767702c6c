package serve_test

import (
	"context"
	"log/slog"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/tandem-moe/tandem/kernel"
	"github.com/tandem-moe/tandem/kernel/kerneltest"
	"github.com/tandem-moe/tandem/layer"
	"github.com/tandem-moe/tandem/m2n"
	"github.com/tandem-moe/tandem/route"
	"github.com/tandem-moe/tandem/serve"
	"github.com/tandem-moe/tandem/serve/attention"
	"github.com/tandem-moe/tandem/serve/direct"
	"github.com/tandem-moe/tandem/serve/expert"
	"github.com/tandem-moe/tandem/serve/node/nodetest"
)

// scarce is a small model on a device that can run out of memory.
type scarce struct {
	*nodetest.Model
	t         *testing.T
	ledger    *kerneltest.Ledger
	placement route.Placement
}

func newScarce(t *testing.T) *scarce {
	t.Helper()
	ledger := kerneltest.NewLedger(nodetest.CPU(t, kernel.CPUOptions{Threads: 1}))
	m := nodetest.Load(t, ledger)
	return &scarce{Model: m, t: t, ledger: ledger, placement: route.Even(m.Spec.Sparse(), m.Spec.Router.Experts, 1)}
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
	w, err := layer.LoadAttention(s.t.Context(), s.Device, s.Checkpoint, s.Spec, 64, nil)
	if err == nil {
		w.Free(s.Device)
	}
	return err
}

// caches makes a cache and activations.
func (s *scarce) caches() error {
	c, err := layer.NewCache(s.Device, s.Spec, 4, kernel.KVBlock)
	if err != nil {
		return err
	}
	defer c.Free(s.Device)
	a, err := layer.NewAttention(s.Device, s.Spec, s.Attention, c)
	require.NoError(s.t, err)
	rows, err := a.NewActivations(8)
	if err != nil {
		return err
	}
	a.FreeActivations(rows)
	return nil
}

// attends makes an attention node of two micro-batches.
func (s *scarce) attends() error {
	n, err := attention.New(attention.Config{
		Spec: s.Spec, Device: s.Device, Weights: s.Attention, Cache: s.Cache, ModelHash: "m", Numerics: "n", Placement: s.placement,
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
	d, err := direct.New(s.Device, s.Spec, s.Attention, s.Experts, s.Cache, 8)
	if err != nil {
		return err
	}
	defer d.Free()
	d.Wire = route.Wire{Rows: kernel.RowBF16, Combine: route.Partial}
	d.Placement = route.Even(s.Spec.Sparse(), s.Spec.Router.Experts, 2)
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
	ep, sender := endpoint("expert", "attention"), endpoint("attention", "expert")
	n, err := expert.New(expert.Config{
		Spec: s.Spec, Device: s.Device, Wire: wire, Endpoint: ep, Log: slog.New(slog.DiscardHandler),
	})
	require.NoError(s.t, err)
	n.Hold(s.placement, s.Experts)
	plain := nodetest.CPU(s.t, kernel.CPUOptions{Threads: 1})
	body := nodetest.OneRow(s.t, plain, sender, s.Spec.Hidden)
	body[0].Len = wire.RowBytes(s.Spec.Hidden)
	ctx, cancel := context.WithTimeout(s.t.Context(), 20*time.Second)
	ended := make(chan error, 1)
	go func() { ended <- n.Run(ctx) }()
	for step := range 3 {
		h := route.Header{Kind: route.Dispatch, InFlight: 1, Step: uint64(step), Layer: s.Spec.SparseLayers()[0], Rows: 1, Pairs: 1, Wire: wire, Placement: s.placement.Version}
		_, err = sender.Post("expert", m2n.Message{Header: h.Append(nil), Body: body})
		require.NoError(s.t, err)
		if err = answered(ctx, sender, ended); err != nil {
			break
		}
	}
	cancel()
	if err == nil {
		err = <-ended
	}
	soon, stop := context.WithTimeout(context.Background(), time.Second)
	defer stop()
	_ = sender.Close(soon) // what is not answered is still with the node
	_ = ep.Close(soon)
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
			before := s.ledger.Live()
			tried := 0
			for n := 1; ; n++ {
				s.ledger.FailAt(n)
				err := work(s)
				require.Equal(t, before, s.ledger.Live(), "buffers after allocation %d has failed: %v", n, err)
				if !s.ledger.Failed() {
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
