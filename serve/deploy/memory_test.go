package deploy

import (
	"os"
	"path/filepath"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/tandem-moe/tandem/internal/headroom"
	"github.com/tandem-moe/tandem/kernel"
	"github.com/tandem-moe/tandem/layer"
	"github.com/tandem-moe/tandem/model/checkpoint"
)

// TestWeightsComeFirst: the KV cache gets a third of the memory that the weights leave
// free, no more than its sequences need, and nothing where the weights leave nothing.
func TestWeightsComeFirst(t *testing.T) {
	m, err := OpenModel("")
	require.NoError(t, err)
	defer m.Checkpoint.Close()
	o := Options{}
	require.NoError(t, o.fill(m.Spec))
	const free, limit = 1 << 30, "/sys/fs/cgroup/memory.max"
	all := 64 * int64(m.Spec.MaxPositions) / 16 * layer.CacheBytes(m.Spec, 16)
	for _, c := range []struct {
		free, toLoad, want int64
		from               []string
	}{
		{free, 0, free / 3, []string{"a third", "1.0 GiB", limit}},
		{free, free / 4, free / 4, []string{"a third", limit, "less 256.0 MiB of weights"}},
		{free, 2 * free, 0, []string{"less 2.0 GiB of weights"}},
		{100 * free, free, all, []string{"64 sequences of 2048 tokens"}},
	} {
		got := o.defaultCache(m.Spec, c.toLoad, headroom.Headroom{Bytes: c.free, Limit: limit})
		require.Equal(t, c.want, got.bytes)
		for _, from := range c.from {
			require.Contains(t, got.from, from)
		}
	}
	require.ErrorContains(t, o.fillCache(m.Spec, 1<<60), "of weights; see --kv-memory) for 1 attention nodes, one page of 16 tokens takes")
	o.KVMemory = 1 << 20
	require.NoError(t, o.fillCache(m.Spec, 1<<60), "who says how much gets it")
}

// TestBytesOfTheParts: the computed sizes of both parts' weights are the bytes that are
// loaded.
func TestBytesOfTheParts(t *testing.T) {
	m, err := OpenModel("")
	require.NoError(t, err)
	defer m.Checkpoint.Close()
	attention, err := attentionBytes(m)
	require.NoError(t, err)
	o := Options{}
	var total [2]int64
	o.Progress = func(done, all int64) { total[0], total[1] = done, all }
	l, err := StartLocal(t.Context(), m, o, nil)
	require.NoError(t, err)
	require.NoError(t, l.Close())
	require.Equal(t, m.Checkpoint.Bytes(), total[0], "all tensors of this model are loaded")
	n := &Node{model: m}
	n.Progress = func(_, all int64) { total[1] = all }
	pool := kernel.NewPool(1)
	defer pool.Close()
	n.attends, err = kernel.NewCPU(kernel.CPUOptions{Pool: pool})
	require.NoError(t, err)
	n.dev = n.attends
	defer n.dev.Close()
	require.NoError(t, n.loadAttention(t.Context(), 16))
	require.Equal(t, attention, total[1])
}

// TestSizesAreKnownWithoutReading: the files' headers tell how much there is to load. To
// read the tensors of a large model would take minutes.
func TestSizesAreKnownWithoutReading(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "tiny")
	require.NoError(t, os.CopyFS(dir, os.DirFS(filepath.Join("testdata", "tiny"))))
	m, err := OpenModel(dir)
	require.NoError(t, err)
	defer m.Checkpoint.Close()
	want, err := attentionBytes(m)
	require.NoError(t, err)
	require.Positive(t, want)
	path := filepath.Join(dir, checkpoint.SingleFile)
	info, err := os.Stat(path)
	require.NoError(t, err)
	require.NoError(t, os.Truncate(path, info.Size()-m.Checkpoint.Bytes()))
	_, err = m.Checkpoint.Tensor("model.norm.weight")
	require.ErrorContains(t, err, "cut short", "nothing can be read any more")
	got, err := attentionBytes(m)
	require.NoError(t, err)
	require.Equal(t, want, got)
}
