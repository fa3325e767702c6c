package kernel

import (
	"fmt"
	"math/rand/v2"
	"testing"

	"github.com/stretchr/testify/require"
)

// attentionBench is a batch of equal sequences on caches of random numbers.
type attentionBench struct {
	sequences, context, rows int
	heads, kvHeads, dim      int
	pageTokens               int
}

func (b attentionBench) String() string {
	return fmt.Sprintf("%dx%d+%d,heads=%d:%dx%d", b.sequences, b.context-b.rows, b.rows, b.heads, b.kvHeads, b.dim)
}

// flops is two for each multiply-add of both products.
func (b attentionBench) flops() float64 {
	keys := 0
	for r := range b.rows {
		keys += b.context - r
	}
	return 4 * float64(b.sequences*keys*b.heads*b.dim)
}

// bytes is the keys and values, read once.
func (b attentionBench) bytes() float64 {
	return 8 * float64(b.sequences*b.context*b.kvHeads*b.dim)
}

func (b attentionBench) run(t *testing.B, isa ISA, threads int) {
	c := newDevice(t, isa, threads)
	perSequence := (b.context + b.pageTokens - 1) / b.pageTokens
	kv := newKV(t, c, b.sequences*perSequence, KV{PageTokens: b.pageTokens, Heads: b.kvHeads, KeyDim: b.dim, ValueDim: b.dim})
	fill(kv.K)
	fill(kv.V)
	rows := b.sequences * b.rows
	q, err := c.Alloc(DeviceMemory, F32, rows*b.heads*b.dim)
	require.NoError(t, err)
	fill(q)
	dst, err := c.Alloc(DeviceMemory, F32, rows*b.heads*b.dim)
	require.NoError(t, err)
	var seqs []Sequence
	for i := range b.sequences {
		s := Sequence{Row: i * b.rows, Rows: b.rows, Pos: b.context - b.rows}
		for p := range perSequence {
			s.Pages = append(s.Pages, int32(i*perSequence+p))
		}
		seqs = append(seqs, s)
	}
	p := AttentionParams{Heads: b.heads, Scale: 0.1}
	for t.Loop() {
		c.Attention(MatOf(dst, rows, b.heads*b.dim), MatOf(q, rows, b.heads*b.dim), kv, seqs, p)
	}
	seconds := t.Elapsed().Seconds() / float64(t.N)
	t.ReportMetric(b.flops()/seconds/1e9, "GFLOP/s")
	t.ReportMetric(b.bytes()/seconds/1e9, "GB/s")
	t.ReportMetric(0, "ns/op")
}

func fill(b Buffer) {
	r := rand.New(rand.NewPCG(1, 1))
	f := f32s(b)
	for i := range f {
		f[i] = r.Float32() - 0.5
	}
}

// BenchmarkAttention is decode, which memory bounds (compare GB/s with
// BenchmarkRead), and prefill, which arithmetic bounds.
func BenchmarkAttention(b *testing.B) {
	eachSetup(b, func(b *testing.B, isa ISA, threads int) {
		for _, a := range []attentionBench{
			{1, 16384, 1, 32, 4, 128, 64},
			{1, 16384, 1, 16, 16, 64, 64},
			{32, 1024, 1, 32, 8, 128, 16},
			{1, 512, 512, 32, 4, 128, 64},
			{1, 2048, 512, 16, 16, 64, 64},
		} {
			b.Run(a.String(), func(b *testing.B) { a.run(b, isa, threads) })
		}
	})
}

// eachSetup runs a benchmark on the fast instruction sets with one and two
// threads.
func eachSetup(b *testing.B, run func(b *testing.B, isa ISA, threads int)) {
	for _, isa := range Available() {
		for _, threads := range []int{1, 2} {
			if isa != Portable {
				b.Run(fmt.Sprintf("%v-%d", isa, threads), func(b *testing.B) { run(b, isa, threads) })
			}
		}
	}
}

// BenchmarkRead reads memory from end to end.
func BenchmarkRead(b *testing.B) {
	eachSetup(b, func(b *testing.B, isa ISA, threads int) {
		c := newDevice(b, isa, threads)
		buf, err := c.Alloc(DeviceMemory, F32, 64<<20)
		require.NoError(b, err)
		defer c.Free(buf)
		fill(buf)
		f := f32s(buf)
		for b.Loop() {
			c.parallel(len(f)/4096, 16, func(lo, hi int) {
				var l lanes
				sumSquaresLanes(isa, &l, f[lo*4096:hi*4096])
			})
		}
		b.ReportMetric(4*float64(len(f))*float64(b.N)/b.Elapsed().Seconds()/1e9, "GB/s")
		b.ReportMetric(0, "ns/op")
	})
}
