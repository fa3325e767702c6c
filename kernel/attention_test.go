package kernel

import (
	"fmt"
	"math"
	"math/rand/v2"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/tandem-moe/tandem/kernel/detmath"
)

// attentionCase is a batch of sequences with everything that their rows may see.
type attentionCase struct {
	heads, kvHeads int
	dim, valueDim  int
	window         int
	scale          float32
	sinks          []float32 // by head, or nil
	seqs           []sequenceCase
}

// sequenceCase is a sequence of which the batch holds the last rows.
type sequenceCase struct {
	rows    int
	keys    [][]float32 // of each position, kvHeads·dim
	values  [][]float32 // kvHeads·valueDim
	queries [][]float32 // of the last rows, heads·dim
}

func (s *sequenceCase) pos() int { return len(s.keys) - s.rows }

// randomAttention draws a case whose keys and values are of one width, without
// sinks.
func randomAttention(r *rand.Rand, maxLength int) attentionCase {
	c := randomHeads(r)
	c.addSequences(r, maxLength)
	return c
}

// variedAttention draws a case whose values are of a width of their own, with sinks
// or without, far below and far above the scores some of them.
func variedAttention(r *rand.Rand, maxLength int) attentionCase {
	c := randomHeads(r)
	c.valueDim = 1 + r.IntN(100)
	if r.IntN(3) > 0 {
		c.sinks = randomFloats(r, c.heads, false)
		c.sinks[0] *= 40
	}
	c.addSequences(r, maxLength)
	return c
}

func pick(r *rand.Rand, of ...int) int { return of[r.IntN(len(of))] }

func randomHeads(r *rand.Rand) attentionCase {
	c := attentionCase{
		kvHeads: pick(r, 1, 2, 3), dim: pick(r, 2, 6, 16, 20, 24, 32, 64, 80, 96, 128),
		window: pick(r, 0, 0, 0, 1, 5, 100, 256, 300), scale: r.Float32(),
	}
	c.valueDim = c.dim
	c.heads = c.kvHeads * pick(r, 1, 2, 3, 4, 5, 7, 8, 12, 13)
	return c
}

// addSequences draws sequences whose lengths lie about the ends of spans.
func (c *attentionCase) addSequences(r *rand.Rand, maxLength int) {
	for range 1 + r.IntN(3) {
		length := 1 + r.IntN(maxLength)
		c.addSequence(r, length, 1+r.IntN(min(length, pick(r, 1, 1, 4, 40))))
	}
}

func (c *attentionCase) addSequence(r *rand.Rand, length, rows int) {
	s := sequenceCase{rows: rows}
	for range length {
		s.keys = append(s.keys, randomFloats(r, c.kvHeads*c.dim, false))
		s.values = append(s.values, randomFloats(r, c.kvHeads*c.valueDim, false))
	}
	for range rows {
		s.queries = append(s.queries, randomFloats(r, c.heads*c.dim, false))
	}
	c.seqs = append(c.seqs, s)
}

// want is every row's result, by the definition.
func (c *attentionCase) want() (rows []float32) {
	for _, s := range c.seqs {
		for i, q := range s.queries {
			for h := range c.heads {
				rows = append(rows, c.attend(&s, q[h*c.dim:(h+1)*c.dim], h, s.pos()+i)...)
			}
		}
	}
	return rows
}

// attend is attention as kernel.Attention defines it: one query, one step after
// the other.
func (c *attentionCase) attend(s *sequenceCase, q []float32, queryHead, pos int) []float32 {
	kvHead, lo := queryHead*c.kvHeads/c.heads, 0
	if c.window > 0 {
		lo = max(0, pos-c.window+1)
	}
	head := func(row []float32) []float32 {
		dim := len(row) / c.kvHeads
		return row[kvHead*dim : (kvHead+1)*dim]
	}
	var M, L float32
	A := make([]float32, c.valueDim)
	started := c.sinks != nil
	if started {
		M, L = c.sinks[queryHead], 1
	}
	for span := 0; span <= pos; span += Span {
		from, to := max(lo, span), min(pos+1, span+Span)
		if from >= to {
			continue
		}
		scores := make([]float32, to)
		m := negInf
		for j := from; j < to; j++ {
			dot := float32(0)
			for d, k := range head(s.keys[j]) {
				dot = detmath.FMA32(q[d], k, dot)
			}
			scores[j] = float32(dot * c.scale)
			if scores[j] > m {
				m = scores[j]
			}
		}
		var tree lanes
		a := make([]float32, c.valueDim)
		for j := from; j < to; j++ {
			p := detmath.Exp32(scores[j] - m)
			tree[j%Lanes] += p
			for d, v := range head(s.values[j]) {
				a[d] = detmath.FMA32(p, v, a[d])
			}
		}
		l := tree.sum()
		if !started {
			M, L, A, started = m, l, a, true
			continue
		}
		top := max(M, m)
		f, g := detmath.Exp32(M-top), detmath.Exp32(m-top)
		M, L = top, detmath.FMA32(l, g, float32(L*f))
		for d := range A {
			A[d] = detmath.FMA32(a[d], g, float32(A[d]*f))
		}
	}
	for d := range A {
		A[d] /= L
	}
	return A
}

// layout is how a case lies in memory and how it is fed.
type layout struct {
	pageTokens int
	chunk      int  // rows of a sequence stored and attended to at once; 0: all
	alone      bool // each sequence in a batch of its own
}

func randomLayout(r *rand.Rand) layout {
	return layout{
		pageTokens: []int{16, 32, 64, 128, 256, 512}[r.IntN(6)],
		chunk:      []int{0, 1, 3, 16, 17}[r.IntN(5)],
		alone:      r.IntN(2) == 0,
	}
}

// cached is a case whose earlier keys and values are stored, in pages that are
// dealt out at random; what nobody has written is NaN.
type cached struct {
	*attentionCase
	c     *CPU
	kv    KV
	pages [][]int32
}

func (a *attentionCase) store(t testing.TB, c *CPU, r *rand.Rand, l layout) *cached {
	t.Helper()
	k := &cached{attentionCase: a, c: c}
	total := 1 // one page belongs to nobody
	for _, s := range a.seqs {
		total += len(s.keys)/l.pageTokens + 1
	}
	free := r.Perm(total)
	for _, s := range a.seqs {
		var pages []int32
		for range len(s.keys)/l.pageTokens + 1 {
			pages = append(pages, int32(free[0]))
			free = free[1:]
		}
		k.pages = append(k.pages, pages)
	}
	k.kv = newKV(t, c, total, KV{PageTokens: l.pageTokens, Heads: a.kvHeads, KeyDim: a.dim, ValueDim: a.valueDim})
	for i, s := range a.seqs {
		k.storeRows(t, i, 0, s.pos())
	}
	return k
}

// newKV is memory for the pages of a cache of the given shape, which starts somewhere
// in its buffers and is full of NaN.
func newKV(t testing.TB, c *CPU, pages int, kv KV) KV {
	t.Helper()
	kv.KeyOff, kv.ValueOff = 48, 32
	nan := func(n int) Buffer {
		b, err := c.Alloc(DeviceMemory, F32, n)
		require.NoError(t, err)
		t.Cleanup(func() { c.Free(b) })
		for i := range f32s(b) {
			f32s(b)[i] = float32(math.NaN())
		}
		return b
	}
	tokens := pages * kv.PageTokens * kv.Heads
	kv.K, kv.V = nan(kv.KeyOff+tokens*kv.KeyDim), nan(kv.ValueOff+tokens*kv.ValueDim)
	return kv
}

// storeRows stores positions lo to hi of a sequence.
func (k *cached) storeRows(t testing.TB, seq, lo, hi int) {
	t.Helper()
	s := &k.seqs[seq]
	keys := upload(t, k.c, hi-lo, k.kvHeads*k.dim, concat(s.keys[lo:hi]))
	values := upload(t, k.c, hi-lo, k.kvHeads*k.valueDim, concat(s.values[lo:hi]))
	k.c.StoreKV(k.kv, keys, values, []Sequence{{Rows: hi - lo, Pos: lo, Pages: k.pages[seq]}})
}

func concat(rows [][]float32) (all []float32) {
	for _, r := range rows {
		all = append(all, r...)
	}
	return all
}

// batch is the sequences' next rows, at most chunk of each, from rows done on.
func (k *cached) batch(which []int, done, chunk int) (seqs []Sequence, queries []float32, rows int) {
	for _, i := range which {
		s := &k.seqs[i]
		n := min(chunk, s.rows-done)
		if n <= 0 {
			continue
		}
		seqs = append(seqs, Sequence{Row: rows, Rows: n, Pos: s.pos() + done, Pages: k.pages[i]})
		queries = append(queries, concat(s.queries[done:done+n])...)
		rows += n
	}
	return seqs, queries, rows
}

// got runs the case and returns every row's result in want's order.
func (k *cached) got(t testing.TB, l layout) []float32 {
	t.Helper()
	results := make([][]float32, len(k.seqs))
	groups := [][]int{nil}
	for i := range k.seqs {
		if l.alone {
			groups = append(groups, []int{i})
		} else {
			groups[0] = append(groups[0], i)
		}
	}
	for _, which := range groups {
		k.run(t, which, l.chunk, results)
	}
	return concat(results)
}

func (k *cached) run(t testing.TB, which []int, chunk int, results [][]float32) {
	t.Helper()
	if chunk == 0 {
		chunk = math.MaxInt
	}
	p := AttentionParams{Heads: k.heads, Scale: k.scale, Window: k.window}
	if k.sinks != nil {
		sinks, err := k.c.Vector(F32, narrow(F32, k.sinks))
		require.NoError(t, err)
		p.Sinks = sinks
	}
	for done := 0; ; {
		seqs, queries, rows := k.batch(which, done, chunk)
		if rows == 0 {
			return
		}
		most := 0
		for i, s := range seqs {
			seq := k.sequenceOf(s)
			k.storeRows(t, seq, s.Pos, s.Pos+s.Rows)
			most = max(most, seqs[i].Rows)
		}
		q, cols := upload(t, k.c, rows, k.heads*k.dim, queries), k.heads*k.valueDim
		dst := upload(t, k.c, rows, cols, make([]float32, rows*cols))
		k.c.Attention(dst, q, k.kv, seqs, p)
		for _, s := range seqs {
			seq := k.sequenceOf(s)
			results[seq] = append(results[seq], download(dst.RowRange(s.Row, s.Row+s.Rows))...)
		}
		done += most
	}
}

func (k *cached) sequenceOf(s Sequence) int {
	for i, p := range k.pages {
		if p[0] == s.Pages[0] {
			return i
		}
	}
	panic("unknown sequence")
}

// TestAttentionIsItsDefinition: whatever the instruction set, threads, page
// size, chunks and neighbours, a row's bits are those of the definition.
func TestAttentionIsItsDefinition(t *testing.T) {
	for seed := range uint64(36) {
		r := newRand(t, seed)
		draw := randomAttention
		if seed >= 18 {
			draw = variedAttention
		}
		a := draw(r, 700)
		want := a.want()
		for _, isa := range Available() {
			l := randomLayout(r)
			c := newDevice(t, isa, threadCounts[r.IntN(len(threadCounts))])
			got := a.store(t, c, r, l).got(t, l)
			requireSameBits(t, want, got, fmt.Sprintf("seed %d, %v, %+v, heads %d/%d of %d and %d, window %d, sinks %v",
				seed, isa, l, a.heads, a.kvHeads, a.dim, a.valueDim, a.window, a.sinks))
		}
	}
}

// TestAttentionOverAllThreads: few queries with long contexts are cut between
// threads.
func TestAttentionOverAllThreads(t *testing.T) {
	r := newRand(t, 1)
	a := attentionCase{heads: 4, kvHeads: 1, dim: 16, valueDim: 24, scale: 0.25, sinks: []float32{3, -1, 30, 0}}
	a.addSequence(r, 5000, 1)
	a.addSequence(r, 30, 2)
	a.addSequence(r, 2100, 7)
	want := a.want()
	eachDevice(t, func(t *testing.T, c *CPU) {
		l := layout{pageTokens: 64}
		requireSameBits(t, want, a.store(t, c, newRand(t, 2), l).got(t, l))
		require.Equal(t, c.Threads() > 1, len(c.attention.cuts) > 0, "whether the context was cut")
	})
}

// TestAttentionPlanIsComplete: every span of every unit is in exactly one piece.
func TestAttentionPlanIsComplete(t *testing.T) {
	for seed := range uint64(50) {
		r := newRand(t, seed)
		a := attention{params: AttentionParams{Heads: 4 << r.IntN(3)}, cache: cacheView{heads: 1 << r.IntN(3), keyDim: 8, valueDim: 8}}
		for range r.IntN(5) {
			a.seqs = append(a.seqs, Sequence{Rows: r.IntN(50), Pos: r.IntN(1 << r.IntN(14))})
		}
		a.plan(1 + r.IntN(8))
		seen := map[[2]int]int{}
		for _, p := range a.pieces {
			for u := p.lo; u < p.hi; u++ {
				lo, hi := a.tile(u).spanLo, a.tile(u).spanHi
				if p.cut >= 0 {
					require.Equal(t, a.cuts[p.cut].unit, u)
					lo, hi = p.spanLo, p.spanHi
				}
				for s := lo; s < hi; s++ {
					seen[[2]int{u, s}]++
				}
			}
		}
		spans := 0
		for u := range len(a.tiles) * a.cache.heads {
			for s := a.tile(u).spanLo; s < a.tile(u).spanHi; s++ {
				require.Equal(t, 1, seen[[2]int{u, s}], "unit %d, span %d", u, s)
				spans++
			}
		}
		require.Len(t, seen, spans)
	}
}

// TestAttentionReadsNothingMasked: what later rows have stored, not finite even,
// does not reach earlier rows that are computed with them.
func TestAttentionReadsNothingMasked(t *testing.T) {
	r := newRand(t, 3)
	a := attentionCase{heads: 2, kvHeads: 1, dim: 32, valueDim: 32, scale: 0.2, window: 20}
	a.addSequence(r, 270, 40)
	inf := float32(math.Inf(1))
	for _, j := range []int{210, 232, 257, 268} { // before the window of all rows, and of some
		a.seqs[0].values[j][3], a.seqs[0].keys[j][5] = inf, float32(math.NaN())
	}
	want := a.want()
	require.False(t, want[3] != want[3], "the first row sees none of them")
	require.True(t, want[len(want)-1] != want[len(want)-1], "the last row does")
	eachDevice(t, func(t *testing.T, c *CPU) {
		l := layout{pageTokens: 32}
		requireSameBits(t, want, a.store(t, c, newRand(t, 4), l).got(t, l))
	})
}

// TestAttentionValues compares with softmax in float64.
func TestAttentionValues(t *testing.T) {
	for seed := range uint64(12) {
		r := newRand(t, seed)
		a := variedAttention(r, 400)
		want := a.want()
		for _, s := range a.seqs {
			for i, q := range s.queries {
				for h := range a.heads {
					exact := a.exact(&s, q[h*a.dim:(h+1)*a.dim], h, s.pos()+i)
					for d, e := range exact {
						require.InDelta(t, e, float64(want[d]), 2e-5)
					}
					want = want[a.valueDim:]
				}
			}
		}
	}
}

// exact is attention in float64, the softmax over all keys, and the sink, at once.
func (c *attentionCase) exact(s *sequenceCase, q []float32, queryHead, pos int) []float64 {
	kvHead, lo := queryHead*c.kvHeads/c.heads, 0
	if c.window > 0 {
		lo = max(0, pos-c.window+1)
	}
	out := make([]float64, c.valueDim)
	var scores []float64
	top := math.Inf(-1)
	for j := lo; j <= pos; j++ {
		dot := 0.0
		for d, x := range q {
			dot += float64(x) * float64(s.keys[j][kvHead*c.dim+d])
		}
		scores = append(scores, dot*float64(c.scale))
		top = max(top, dot*float64(c.scale))
	}
	sum := 0.0
	if c.sinks != nil {
		top = max(top, float64(c.sinks[queryHead]))
		sum = math.Exp(float64(c.sinks[queryHead]) - top)
	}
	for i, score := range scores {
		p := math.Exp(score - top)
		sum += p
		for d := range out {
			out[d] += p * float64(s.values[lo+i][kvHead*c.valueDim+d])
		}
	}
	for d := range out {
		out[d] /= sum
	}
	return out
}

func TestAttentionRefusesWrongShapes(t *testing.T) {
	c := newDevice(t, Portable, 1)
	kv := newKV(t, c, 4, KV{PageTokens: 16, Heads: 2, KeyDim: 8, ValueDim: 8})
	q := upload(t, c, 3, 32, make([]float32, 96))
	p := AttentionParams{Heads: 4, Scale: 1}
	seqs := func(s Sequence) []Sequence { return []Sequence{s} }
	ok := Sequence{Rows: 3, Pages: []int32{3}}
	require.NotPanics(t, func() { c.Attention(q, q, kv, seqs(ok), p) })
	for name, run := range map[string]func(){
		"heads":        func() { c.Attention(q, q, kv, seqs(ok), AttentionParams{Heads: 3}) },
		"window":       func() { c.Attention(q, q, kv, seqs(ok), AttentionParams{Heads: 4, Window: -1}) },
		"columns":      func() { c.Attention(q, q.ColRange(0, 16), kv, seqs(ok), p) },
		"rows":         func() { c.Attention(q, q, kv, seqs(Sequence{Row: 1, Rows: 3, Pages: []int32{0}}), p) },
		"page missing": func() { c.Attention(q, q, kv, seqs(Sequence{Rows: 3, Pos: 14, Pages: []int32{0}}), p) },
		"page beyond":  func() { c.Attention(q, q, kv, seqs(Sequence{Rows: 3, Pages: []int32{4}}), p) },
		"page size":    func() { k := kv; k.PageTokens = 48; c.Attention(q, q, k, seqs(ok), p) },
		"store":        func() { c.StoreKV(kv, q, q, seqs(ok)) },
		"value width":  func() { k := kv; k.ValueDim = 6; c.Attention(q, q, k, seqs(ok), p) },
		"no values":    func() { k := kv; k.ValueDim = 0; c.Attention(q, q, k, seqs(ok), p) },
		"sinks":        func() { c.Attention(q, q, kv, seqs(ok), AttentionParams{Heads: 4, Sinks: kv.K}) },
	} {
		require.Panics(t, run, name)
	}
}
