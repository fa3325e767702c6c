package kernel

import "github.com/tandem-moe/tandem/kernel/detmath"

const (
	// scoreStride is the distance of two queries' scores. It is larger than Span: rows a
	// power of two apart map to the same few sets of the processor's cache.
	scoreStride = Span + KVBlock
	// valueChunk is how many values are weighed for all columns before the next:
	// few enough that they stay in the first-level cache.
	valueChunk = 32
)

// partial is the result of a span for a tile's queries, or of several spans merged: the
// maxima m, the sums l, and the accumulators a [queries][stride].
type partial struct {
	max, sum []float32
	acc      []float32
	stride   int
}

// accStride is the distance of two queries' accumulators: whole vectors.
func (a *attention) accStride() int { return padLanes(a.cache.valueDim) }

// partialSize is the floats of a partial of maxQueries queries, rounded up so
// that the next one's accumulators start on a cache line too.
func (a *attention) partialSize() int { return padLanes(maxQueries * (a.accStride() + 2)) }

// partialOf views memory as a partial.
func (a *attention) partialOf(mem []float32) partial {
	acc := maxQueries * a.accStride()
	return partial{
		acc: mem[:acc], stride: a.accStride(),
		max: mem[acc : acc+maxQueries], sum: mem[acc+maxQueries : acc+2*maxQueries],
	}
}

// row is query i's accumulator.
func (p *partial) row(i int) []float32 { return p.acc[i*p.stride : (i+1)*p.stride] }

// spanWorker is one thread's memory for tiles, and the tile it works on.
type spanWorker struct {
	*attention
	tile   *queryTile
	kvHead int
	pages  []int32

	atOnce int       // queries that a kernel takes
	packed []float32 // queries, in groups of atOnce: [keyDim][queries]
	scores []float32 // [maxQueries][scoreStride]
	span   []float32 // a partial: the span in hand
	state  []float32 // a partial: the spans before it
}

// fit makes room for an operation.
func (w *spanWorker) fit(a *attention) {
	w.attention = a
	w.packed = growFloats(w.packed, maxQueries*a.cache.keyDim)
	w.scores = growFloats(w.scores, maxQueries*scoreStride)
	w.span = growFloats(w.span, a.partialSize())
	w.state = growFloats(w.state, a.partialSize())
}

// growFloats returns at least n aligned floats with undefined contents.
func growFloats(f []float32, n int) []float32 {
	if len(f) >= n {
		return f
	}
	return castSlice[float32](alignedBytes(4 * n))
}

// take starts on a unit.
func (w *spanWorker) take(unit int) {
	w.tile = w.attention.tile(unit)
	w.kvHead = unit / len(w.tiles)
	w.pages = w.seqs[w.tile.seq].Pages
	w.atOnce = evenly(w.tile.queries(), queriesAtOnce(w.isa))
}

// evenly is the size of the fewest parts of n, each of at most most: 8 is twice
// 4 where 6 are possible.
func evenly(n, most int) int {
	parts := (n + most - 1) / most
	return (n + parts - 1) / parts
}

// query is query i's vector, where i counts a row's heads before the next row's.
func (w *spanWorker) query(i int) []float32 {
	at := w.column(i) * w.cache.keyDim
	return w.q.row(w.tile.row + i/w.tile.heads)[at : at+w.cache.keyDim]
}

// column is query i's head among all.
func (w *spanWorker) column(i int) int {
	return w.kvHead*w.group() + w.tile.head + i%w.tile.heads
}

// packQueries lays the queries that a kernel takes at once side by side.
func (w *spanWorker) packQueries() {
	for i := range w.tile.queries() {
		first := i / w.atOnce * w.atOnce
		n := min(w.atOnce, w.tile.queries()-first)
		to := w.packed[first*w.cache.keyDim+i-first:]
		for d, v := range w.query(i) {
			to[d*n] = v
		}
	}
}

// visible is the range of keys, within a span, that row r of the tile sees. It
// is empty, lo ≥ hi, where the row does not see the span.
func (w *spanWorker) visible(span, r int) (lo, hi int) {
	lo, hi = w.keys(w.tile.pos + r)
	return max(lo-span*Span, 0), min(hi-span*Span, Span)
}

// sees reports whether row r of the tile sees a span, and whether it is the
// first that it sees.
func (w *spanWorker) sees(span, r int) (sees, first bool) {
	lo, hi := w.visible(span, r)
	from, _ := w.keys(w.tile.pos + r)
	return lo < hi, from/Span == span
}

// reduce computes a span for all queries of the tile that see it.
func (w *spanWorker) reduce(span int, p partial) {
	w.score(span)
	heads := w.tile.heads
	for r := range w.tile.rows {
		lo, hi := w.visible(span, r)
		if lo >= hi {
			continue
		}
		for i := r * heads; i < (r+1)*heads; i++ {
			p.max[i], p.sum[i] = softmaxVisible(w.isa, w.scores[i*scoreStride:][:Span], lo, hi)
		}
	}
	clear(p.acc[:w.tile.queries()*p.stride])
	w.weighSpan(span, p)
}

// softmaxVisible is the softmax of scores lo … hi-1, not divided. The others in
// their blocks count as −Inf.
func softmaxVisible(isa ISA, s []float32, lo, hi int) (maximum, sum float32) {
	from, to := wholeLanes(lo), padLanes(hi)
	fillNegInf(s[from:lo])
	fillNegInf(s[hi:to])
	return softmax(isa, s[from:to])
}

func fillNegInf(s []float32) {
	for i := range s {
		s[i] = negInf
	}
}

// keyPair is the two blocks of keys [keyDim][KVBlock] that a kernel scores at once.
type keyPair [2][]float32

// keyPairAt is the blocks at a position of a span and after it, up to position
// hi. An odd last one is there twice.
func (w *spanWorker) keyPairAt(span, at, hi int) keyPair {
	pos := span*Span + at
	first := w.cache.keyBlock(w.pages, w.kvHead, pos)
	if at+KVBlock >= hi {
		return keyPair{first, first}
	}
	return keyPair{first, w.cache.keyBlock(w.pages, w.kvHead, pos+KVBlock)}
}

// score computes the tile's scores for the blocks of keys that any row sees.
func (w *spanWorker) score(span int) {
	lo, hi := w.seen(span)
	lo = wholeLanes(lo)
	next := w.keyPairAt(span, lo, hi)
	for at := lo; at < hi; at += 2 * KVBlock {
		pair := next
		if at+2*KVBlock < hi {
			next = w.keyPairAt(span, at+2*KVBlock, hi)
		} else {
			next = w.firstValues(span)
		}
		w.scorePair(at, pair, next)
	}
}

// seen is the range of a span's keys that any row of the tile sees.
func (w *spanWorker) seen(span int) (lo, hi int) {
	lo, _ = w.visible(span, 0)
	_, hi = w.visible(span, w.tile.rows-1)
	return lo, hi
}

func (w *spanWorker) scorePair(at int, pair, next keyPair) {
	queries := w.tile.queries()
	for i := 0; i < queries; i += w.atOnce {
		n := min(w.atOnce, queries-i)
		scoreKeys(w.isa, n, w.scores[i*scoreStride+at:], w.packed[i*w.cache.keyDim:], pair, next, w.params.Scale)
	}
}

// firstValues is the memory that is read after a span's keys, in halves.
func (w *spanWorker) firstValues(span int) keyPair {
	lo, hi := w.seen(span)
	pos := span*Span + lo
	n := min(hi-lo, valueChunk, w.untilPageEnd(pos))
	v := w.cache.values(w.pages, w.kvHead, pos, n)
	return keyPair{v, v[len(v)/2:]}
}

// afterValues is the memory that is read after the values before position at of
// a span.
func (w *spanWorker) afterValues(span, at int) []float32 {
	_, hi := w.seen(span)
	switch {
	case at < hi:
		return w.cache.values(w.pages, w.kvHead, span*Span+at, 1)
	case span+1 < w.tile.spanHi:
		return w.cache.keyBlock(w.pages, w.kvHead, (span+1)*Span)
	}
	return w.scores // the memory that follows is not known: any valid address will do
}

// untilPageEnd is how many positions from pos on lie in its page.
func (w *spanWorker) untilPageEnd(pos int) int {
	return w.cache.pageTokens - pos%w.cache.pageTokens
}

// weighSpan adds the weighed values of a span to the accumulators. Keys that all rows
// of the tile see are weighed for all queries together, and the keys before and after
// them row by row.
func (w *spanWorker) weighSpan(span int, p partial) {
	last := w.tile.rows - 1
	_, hiFirst := w.visible(span, 0)
	loLast, _ := w.visible(span, last)
	for r := range last {
		lo, hi := w.visible(span, r)
		w.weigh(span, p, r, 1, lo, min(hi, loLast))
	}
	w.weigh(span, p, 0, w.tile.rows, loLast, hiFirst)
	for r := 1; r <= last; r++ {
		_, hi := w.visible(span, r)
		w.weigh(span, p, r, 1, max(hiFirst, loLast), hi)
	}
}

// weigh adds keys lo … hi-1 of a span, weighed, to the accumulators of some
// rows.
func (w *spanWorker) weigh(span int, p partial, row, rows, lo, hi int) {
	for lo < hi {
		pos := span*Span + lo
		n := min(hi-lo, valueChunk, w.untilPageEnd(pos))
		values, next := w.cache.values(w.pages, w.kvHead, pos, n), w.afterValues(span, lo+n)
		end := (row + rows) * w.tile.heads
		for i := row * w.tile.heads; i < end; i += w.atOnce {
			weights := w.scores[i*scoreStride+lo:]
			weighValues(w.isa, min(w.atOnce, end-i), n, p.acc[i*p.stride:], p.stride, weights, values, next, w.cache.valueDim)
		}
		lo += n
	}
}

// scoreKeysPortable is the scores of n queries for two blocks of keys
// [keyDim][KVBlock], at s and s+KVBlock.
func scoreKeysPortable(n int, s, q []float32, pair keyPair, scale float32) {
	for i := range n {
		for b, keys := range pair {
			var acc [KVBlock]float32
			for d := 0; d*KVBlock < len(keys); d++ {
				x := q[d*n+i]
				for j, k := range keys[d*KVBlock : (d+1)*KVBlock] {
					acc[j] = detmath.FMA32(x, k, acc[j])
				}
			}
			for j, v := range acc {
				s[i*scoreStride+b*KVBlock+j] = float32(v * scale)
			}
		}
	}
}

// weighValuesPortable adds keys values [keys][dim], from column first on, to the
// accumulators of n queries, each value multiplied by the query's weight.
func weighValuesPortable(n, keys int, acc []float32, stride int, weights, values []float32, dim, first int) {
	for i := range n {
		row := acc[i*stride : i*stride+dim]
		for j := range keys {
			p, v := weights[i*scoreStride+j], values[j*dim:(j+1)*dim]
			for d := first; d < dim; d++ {
				row[d] = detmath.FMA32(p, v[d], row[d])
			}
		}
	}
}
