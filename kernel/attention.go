package kernel

import (
	"fmt"
	"sync"
)

// Attention is softmax(q·kᵀ·Scale)·v over the cached keys that each row sees.
//
// A row's keys are taken in spans of Span absolute positions. Over the keys of a
// span that the row sees,
//
//	sⱼ = (chain over d of q[d]·k[j][d])·Scale
//	m  = max sⱼ
//	pⱼ = exp(sⱼ−m)
//	l  = Σ pⱼ, the fixed tree; position j is in lane j mod Lanes
//	a  = chain over j, in order, of pⱼ·v[j]
//
// and the spans are merged from left to right. The first span (m, l, a) is the state
// (M, L, A), and each later one changes it to
//
//	M' = max(M, m), f = exp(M−M'), g = exp(m−M')
//	L' = fma(l, g, L·f), A' = fma(a, g, A·f)
//
// The result is A/L. So neither pages nor chunks nor threads nor other rows
// change it. Keys that a row does not see are not read into it. With a sink s the
// state before the first span is (s, 1, 0), and the first span is merged into it.
//
// attention_plan.go decides which thread reduces which spans; the arithmetic of a span
// is in attention_span.go, and merging in attention_merge.go.
func (c *CPU) Attention(dst, q Mat, kv KV, seqs []Sequence, p AttentionParams) {
	a := &c.attention
	a.isa, a.seqs, a.params = c.isa, seqs, p
	a.dst, a.q, a.cache = view(dst), view(q), viewKV(kv)
	if p.Sinks != nil {
		a.sinks = f32s(p.Sinks)
		mustEqual("attention", "sinks", len(a.sinks), p.Heads)
	}
	a.check()
	a.plan(c.threads)
	c.parallel(len(a.pieces), a.grain(), a.runPieces)
	c.parallel(len(a.cuts), 1, a.mergeCuts)
	a.seqs, a.dst, a.q, a.cache, a.sinks = nil, matrix{}, matrix{}, cacheView{}, nil
}

// attention is one operation, and the memory that the next one uses again.
type attention struct {
	isa    ISA
	dst, q matrix
	cache  cacheView
	seqs   []Sequence
	params AttentionParams
	sinks  []float32 // by query head; nil where there are none

	tiles    []queryTile
	pieces   []piece
	cuts     []cut
	work     int
	partials []float32 // results of spans of cut units, which mergeCuts merges
	workers  sync.Pool // of *spanWorker
}

func (a *attention) check() {
	p, c := a.params, &a.cache
	if p.Heads <= 0 || p.Heads%c.heads != 0 || p.Window < 0 {
		panic(fmt.Sprintf("kernel: attention: %d query heads for %d kv heads, window %d", p.Heads, c.heads, p.Window))
	}
	mustEqual("attention", "rows of dst", a.dst.rows, a.q.rows)
	mustEqual("attention", "columns of q", a.q.cols, p.Heads*c.keyDim)
	mustEqual("attention", "columns of dst", a.dst.cols, p.Heads*c.valueDim)
	c.checkSequences("attention", a.seqs, a.q.rows)
}

// group is how many query heads share a kv head.
func (a *attention) group() int { return a.params.Heads / a.cache.heads }

// keys is the range of positions lo … hi-1 that a query at pos sees.
func (a *attention) keys(pos int) (lo, hi int) {
	if w := a.params.Window; w > 0 {
		lo = max(0, pos-w+1)
	}
	return lo, pos + 1
}

// acquire takes a worker's memory, fit for this operation; release returns it.
func (a *attention) acquire() *spanWorker {
	w, ok := a.workers.Get().(*spanWorker)
	if !ok {
		w = new(spanWorker)
	}
	w.fit(a)
	return w
}

func (a *attention) release(w *spanWorker) {
	w.attention = nil
	a.workers.Put(w)
}
