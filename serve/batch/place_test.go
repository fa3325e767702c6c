package batch

import (
	"testing"

	"github.com/stretchr/testify/require"
	"pgregory.net/rapid"

	"github.com/tandem-moe/tandem/serve/kvcache"
)

func TestPlace(t *testing.T) {
	idle := NodeLoad{StepTokens: 512, FreeTokens: 100_000}
	with := func(change func(*NodeLoad)) NodeLoad {
		n := idle
		change(&n)
		return n
	}
	queued := with(func(n *NodeLoad) { n.Queued = 400 })
	decoding := with(func(n *NodeLoad) { n.Sequences = 20 })
	cached := with(func(n *NodeLoad) { n.Cached, n.Sequences = 900, 20 })
	full := with(func(n *NodeLoad) { n.FreeTokens = 0 })
	down := with(func(n *NodeLoad) { n.Down = true })
	for _, c := range []struct {
		name  string
		nodes []NodeLoad
		want  int
	}{
		{"ties go to the lower index", []NodeLoad{idle, idle}, 0},
		{"an idle node", []NodeLoad{decoding, idle}, 1},
		{"the shorter queue", []NodeLoad{queued, idle}, 1},
		{"a prefix of 900 tokens is worth 20 sequences in 16 + 1 steps", []NodeLoad{idle, cached}, 1},
		{"room", []NodeLoad{full, idle}, 1},
		{"a node that is down", []NodeLoad{down, decoding}, 1},
		{"none", []NodeLoad{down}, -1},
		{"nobody", nil, -1},
	} {
		require.Equal(t, c.want, Place(c.nodes, 1000), c.name)
	}
	require.Equal(t, 1000+20*(2+16), decoding.time(1000))
	require.Equal(t, 400+1000, queued.time(1000))
	require.Equal(t, 100+20*(1+16), cached.time(1000))
	require.Equal(t, 1000+1000, full.time(1000))
}

// TestPlaceSpreads places equal requests one after the other: the nodes' numbers of
// requests differ by one at most.
func TestPlaceSpreads(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		nodes := make([]NodeLoad, rapid.IntRange(1, 5).Draw(t, "nodes"))
		for i := range nodes {
			nodes[i] = NodeLoad{StepTokens: 64, FreeTokens: 1 << 20}
		}
		tokens := rapid.IntRange(1, 200).Draw(t, "tokens")
		for i := range 40 {
			at := Place(nodes, tokens)
			require.Equal(t, i%len(nodes), at)
			nodes[at].Queued += tokens
			nodes[at].Sequences++
		}
	})
}

func TestLoad(t *testing.T) {
	id := kvcache.Identity{PageTokens: 4}
	cache, err := kvcache.New(id, 10)
	require.NoError(t, err)
	b, err := New(Config{MicroBatches: 1, MaxNumSeqs: 2, MaxBatchedTokens: 6, MaxWaiting: 5, MaxModelLen: 40}, cache)
	require.NoError(t, err)
	prompt := []int32{1, 2, 3, 4, 5, 6, 7, 8, 9}
	for i := range uint64(3) {
		require.NoError(t, b.Submit(Request{ID: i, Prompt: prompt, MaxTokens: 4}))
	}
	keys := id.Keys(nil, prompt)
	require.Equal(t, NodeLoad{Queued: 27, Sequences: 3, FreeTokens: 40 - 27, StepTokens: 6}, b.Load(keys, 9))
	step := b.Next(0)
	require.Equal(t, 6, step.Tokens)
	// The first request has three pages and three rows left, the others wait.
	require.Equal(t, NodeLoad{Queued: 3 + 18, Sequences: 3, FreeTokens: 28 - 18, StepTokens: 6}, b.Load(keys, 9))
	b.Done(0, make([]Result, len(step.Seqs)))
	require.Equal(t, 4, b.Load(keys, 9).Cached)
}
