// Package nodetest owns what the tests of attention and expert nodes share: a small
// model on a device, messages that a test sends in a node's place, and the wait for
// a node's answer. It is for tests.
package nodetest

import (
	"context"
	"os"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/tandem-moe/tandem/internal/oracle"
	"github.com/tandem-moe/tandem/kernel"
	"github.com/tandem-moe/tandem/layer"
	"github.com/tandem-moe/tandem/m2n"
	"github.com/tandem-moe/tandem/model"
	"github.com/tandem-moe/tandem/model/checkpoint"
	"github.com/tandem-moe/tandem/route"
)

// CPU returns a CPU device that ends with the test.
func CPU(t testing.TB, o kernel.CPUOptions) kernel.Device {
	t.Helper()
	dev, err := kernel.NewCPU(o)
	require.NoError(t, err)
	t.Cleanup(func() { require.NoError(t, dev.Close()) })
	return dev
}

// Positions is the longest sequence of a Model, in tokens.
const Positions = 64

// Model is a fixture with all of its weights and a small cache on a device.
type Model struct {
	Device     kernel.Device
	Spec       *model.Spec
	Checkpoint *checkpoint.Checkpoint
	Attention  *layer.AttentionWeights
	Experts    *layer.ExpertWeights
	Cache      *layer.Cache
}

// Load loads the first fixture.
func Load(t testing.TB, dev kernel.Device) *Model {
	t.Helper()
	dir := oracle.Models(t)[0]
	m := &Model{Device: dev}
	var err error
	m.Spec, err = model.ReadSpec(os.DirFS(dir))
	require.NoError(t, err)
	m.Checkpoint, err = checkpoint.Open(dir)
	require.NoError(t, err)
	t.Cleanup(func() { require.NoError(t, m.Checkpoint.Close()) })
	m.Attention, err = layer.LoadAttention(t.Context(), dev, m.Checkpoint, m.Spec, Positions, nil)
	require.NoError(t, err)
	m.Experts, err = layer.LoadExperts(t.Context(), dev, m.Checkpoint, m.Spec, m.Spec.AllExperts().Experts, nil)
	require.NoError(t, err)
	m.Cache, err = layer.NewCache(dev, m.Spec, Positions/kernel.KVBlock, kernel.KVBlock)
	require.NoError(t, err)
	return m
}

// OneRow is the body of a dispatch of one row: the row, its gate weight, and its
// pair, which is with expert 0.
func OneRow(t testing.TB, dev kernel.Memory, ep *m2n.Endpoint, hidden int) []m2n.Span {
	t.Helper()
	var body []m2n.Span
	for _, n := range []int{hidden, 1} {
		b, err := dev.Alloc(kernel.HostVisible, kernel.F32, n)
		require.NoError(t, err)
		body = append(body, m2n.Span{Region: ep.Register(b.Bytes(), b), Len: 4 * n})
	}
	pairs := make([]byte, route.PairsSize(1))
	route.PutPairs(pairs, route.Packet{Row: []int32{0}, Expert: []int32{0}, Choice: []int32{0}})
	return append(body, m2n.Span{Region: ep.Register(pairs, nil), Len: len(pairs)})
}

// Received waits for a message, passing over completions of other kinds.
func Received(ctx context.Context, t testing.TB, ep *m2n.Endpoint) m2n.Completion {
	t.Helper()
	for {
		c, err := ep.Poll(ctx)
		require.NoError(t, err)
		if c.Kind == m2n.Received {
			return c
		}
	}
}
