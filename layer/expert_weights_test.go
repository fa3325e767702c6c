package layer

import (
	"context"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/tandem-moe/tandem/kernel"
	"github.com/tandem-moe/tandem/kernel/kerneltest"
)

// TestSingleExpertsComeAndGo: experts are loaded once each, whatever was there before,
// given back one by one, and a load that fails adds none.
func TestSingleExpertsComeAndGo(t *testing.T) {
	cpu, err := kernel.NewCPU(kernel.CPUOptions{Threads: 1})
	require.NoError(t, err)
	dev := kerneltest.NewLedger(cpu)
	spec := specOfAllKinds() // experts with biases, which are buffers
	ckpt := writeRandom(t, spec)
	all := spec.AllExperts().Experts
	sparse := spec.SparseLayers()[0]
	only := func(experts ...int) [][]int {
		list := make([][]int, len(spec.Layers))
		list[sparse] = experts
		return list
	}
	whole, err := LoadExperts(t.Context(), dev, ckpt, spec, all, nil)
	require.NoError(t, err)
	require.Equal(t, 2*len(spec.SparseLayers())*spec.Router.Experts, dev.Live(), "two biases of each")

	var loaded []int64
	progress := func(done, total int64) {
		if done == total {
			loaded = append(loaded, total)
		}
	}
	before := dev.Live()
	w, err := LoadExperts(t.Context(), dev, ckpt, spec, only(2), progress)
	require.NoError(t, err)
	require.NoError(t, w.Load(t.Context(), dev, ckpt, spec, only(0, 2, 1), progress))
	require.NoError(t, w.Load(t.Context(), dev, ckpt, spec, only(1, 2), progress))
	require.Len(t, loaded, 2, "the third load misses nothing")
	require.Equal(t, 2*loaded[0], loaded[1], "expert 2 is there")
	require.Equal(t, before+6, dev.Live())
	require.Equal(t, whole.Digests(only(2, 0, 1)), w.Digests(only(2, 0, 1)))
	require.NotEqual(t, w.Digests(only(0)), w.Digests(only(1)))

	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	require.Error(t, w.Load(ctx, dev, ckpt, spec, only(3), nil))
	require.Equal(t, before+6, dev.Live())
	require.Panics(t, func() { w.Layer(sparse, []int{3}) }, "nothing was added")
	require.ErrorContains(t, w.Load(t.Context(), dev, ckpt, spec, only(99), nil), "has no expert 99")

	w.Keep(dev, only(2, 7))
	require.Equal(t, before+2, dev.Live())
	require.Panics(t, func() { w.Layer(sparse, []int{0}) })
	one := w.Layer(sparse, []int{2})
	require.Len(t, one.down, 1)
	require.Len(t, one.downBias, 1)
	w.Free(dev)
	whole.Free(dev)
	require.Zero(t, dev.Live())
	require.NoError(t, dev.Close())
}
