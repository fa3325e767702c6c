package kernel

import "github.com/tandem-moe/tandem/kernel/detmath"

// runPieces does pieces lo to hi.
func (a *attention) runPieces(lo, hi int) {
	w := a.acquire()
	defer a.release(w)
	for _, p := range a.pieces[lo:hi] {
		if p.cut >= 0 {
			w.take(p.lo)
			w.runCut(a.cuts[p.cut], p.spanLo, p.spanHi)
			continue
		}
		for u := p.lo; u < p.hi; u++ {
			w.take(u)
			w.runUnit()
		}
	}
}

// runUnit does all spans of a unit.
func (w *spanWorker) runUnit() {
	w.packQueries()
	state, part := w.partialOf(w.state), w.partialOf(w.span)
	for s := w.tile.spanLo; s < w.tile.spanHi; s++ {
		w.reduce(s, part)
		w.merge(s, state, part)
	}
	w.finish(state)
}

// runCut leaves each of some spans of a cut unit for mergeCuts.
func (w *spanWorker) runCut(c cut, lo, hi int) {
	w.packQueries()
	for s := lo; s < hi; s++ {
		w.reduce(s, w.partialAt(c, s))
	}
}

// partialAt is where a span of the cut unit in hand goes.
func (w *spanWorker) partialAt(c cut, span int) partial {
	return w.partialOf(w.partials[c.first+(span-w.tile.spanLo)*w.partialSize():])
}

// mergeCuts merges the spans of cuts lo to hi.
func (a *attention) mergeCuts(lo, hi int) {
	w := a.acquire()
	defer a.release(w)
	for _, c := range a.cuts[lo:hi] {
		w.take(c.unit)
		state := w.partialOf(w.state)
		for s := w.tile.spanLo; s < w.tile.spanHi; s++ {
			w.merge(s, state, w.partialAt(c, s))
		}
		w.finish(state)
	}
}

// merge adds a span to the state of the spans before it, for the rows that see
// it.
func (w *spanWorker) merge(span int, state, part partial) {
	heads := w.tile.heads
	for r := range w.tile.rows {
		sees, first := w.sees(span, r)
		if !sees {
			continue
		}
		for i := r * heads; i < (r+1)*heads; i++ {
			switch {
			case !first:
				state.mergeRow(w.isa, i, part)
			case w.sinks == nil:
				state.max[i], state.sum[i] = part.max[i], part.sum[i]
				copy(state.row(i), part.row(i))
			default:
				state.max[i], state.sum[i] = w.sinks[w.column(i)], 1
				clear(state.row(i))
				state.mergeRow(w.isa, i, part)
			}
		}
	}
}

// mergeRow merges query i of another partial.
func (p *partial) mergeRow(isa ISA, i int, o partial) {
	top := max(p.max[i], o.max[i])
	f, g := detmath.Exp32(p.max[i]-top), detmath.Exp32(o.max[i]-top)
	p.max[i] = top
	p.sum[i] = detmath.FMA32(o.sum[i], g, float32(p.sum[i]*f))
	rescaleAdd(isa, p.row(i), o.row(i), f, g)
}

// finish writes the tile's results.
func (w *spanWorker) finish(state partial) {
	n := w.cache.valueDim
	for i := range w.tile.queries() {
		at := w.column(i) * n
		dst := w.dst.row(w.tile.row + i/w.tile.heads)[at : at+n]
		divideRow(w.isa, dst, state.row(i)[:n], state.sum[i])
	}
}

// rescaleAddPortable is x = fma(y, g, x·f).
func rescaleAddPortable(x, y []float32, f, g float32) {
	y = y[:len(x)]
	for i, v := range x {
		x[i] = detmath.FMA32(y[i], g, float32(v*f))
	}
}

// divideRowPortable is dst = x/d.
func divideRowPortable(dst, x []float32, d float32) {
	x = x[:len(dst)]
	for i, v := range x {
		dst[i] = v / d
	}
}
