package batch

import (
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/tandem-moe/tandem/serve/kvcache"
)

// decoding returns a batcher with n requests that decode after their first step,
// and a slice for their results.
func decoding(t testing.TB, n int) (*Batcher, []Result) {
	cache, err := kvcache.New(kvcache.Identity{PageTokens: 16}, 64*n)
	require.NoError(t, err)
	b, err := New(Config{MicroBatches: 1, MaxNumSeqs: n, MaxBatchedTokens: 2 * n, MaxWaiting: 0, MaxModelLen: 1000},
		cache)
	require.NoError(t, err)
	for id := range uint64(n) {
		require.NoError(t, b.Submit(Request{ID: id, Prompt: []int32{int32(id), 1}, MaxTokens: 900}))
	}
	return b, make([]Result, n)
}

func TestDecodingAllocatesLittle(t *testing.T) {
	const n = 64
	b, results := decoding(t, n)
	allocs := testing.AllocsPerRun(200, func() {
		step := b.Next(0)
		b.Done(0, results[:len(step.Seqs)])
	})
	// Only tokens, pages and the cache's index grow.
	require.Less(t, allocs, n/4.)
}

func BenchmarkDecode64(b *testing.B) {
	for b.Loop() {
		batcher, results := decoding(b, 64)
		for range 500 {
			step := batcher.Next(0)
			batcher.Done(0, results[:len(step.Seqs)])
		}
	}
	b.ReportMetric(float64(b.Elapsed().Microseconds())/float64(500*b.N), "µs/step")
}
