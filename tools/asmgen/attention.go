package main

import (
	"fmt"

	. "github.com/mmcloughlin/avo/build"
	. "github.com/mmcloughlin/avo/operand"
	"github.com/mmcloughlin/avo/reg"
)

// These agree with package kernel.
const (
	keyBlock    = 16             // keys of a block
	scoreStride = 4 * (256 + 16) // bytes between two queries' scores
)

// attention writes the two products of attention:
//
//	scoreKeys…:   dot products of queries and blocks of keys
//	weighValues…: sums of values, weighed by the scores' exponentials
//
// Like all products they are vectorised over outputs: keys of a block in the
// one, columns in the other.
//
// What is needed next is asked for into the second-level cache: a request into
// the first holds one of its few places for the whole way from memory (a third
// to a half of the bandwidth, with few queries).
func attention() {
	for _, s := range isas() {
		scoreKeys(s)
		weighValues(s)
	}
}

// accumulators is how many registers hold sums; the others hold what is
// multiplied.
func (s isa) accumulators() int { return 24 / s.regs }

// queries is how many queries a kernel takes at most.
func (s isa) queries() int { return 12 / s.regs }

// blocksOf is how many blocks of keys n queries take at once.
func (s isa) blocksOf(n int) int {
	if 2*n*s.regs <= s.accumulators() {
		return 2
	}
	return 1
}

func scoreKeys(s isa) {
	kernelOf(s, "scoreKeys", "n int, s, q, b0, b1, next0, next1 *float32, dim int, scale float32", fmt.Sprintf(
		"is the scores of up to %d queries, packed [dim][n], for the keys of block b0 and, where twice the sums fit the registers, b1. Meanwhile it asks for the blocks next0 and next1. dim is not 0.", s.queries()))
	n := Load(Param("n"), GP64())
	to, q := pointer("s"), pointer("q")
	blocks, next := pointers("b0", "b1"), pointers("next0", "next1")
	dim := Load(Param("dim"), GP64())
	s.dispatch(n, func(n int) {
		k := s.blocksOf(n)
		scoreLoop(s, n, to, q, blocks[:k], next[:k], dim)
	})
}

// dispatch jumps to the code that is made for n queries.
func (s isa) dispatch(n reg.Register, body func(n int)) {
	for k := 1; k < s.queries(); k++ {
		CMPQ(n, U8(k))
		JE(LabelRef(fmt.Sprintf("queries%d", k)))
	}
	for k := s.queries(); k > 0; k-- {
		Label(fmt.Sprintf("queries%d", k))
		body(k)
		VZEROUPPER()
		RET()
	}
}

// outer adds the products of queries' factors and vectors to sums, which are
// [queries][vectors]. The fewer of them are held in registers while the others
// come and go.
func (s isa) outer(sums []reg.VecVirtual, factors, vectors []Mem) {
	w := len(vectors)
	xs, vs := s.group(len(factors)), s.group(w)
	add := func(i, j int) { VFMADD231PS(vs[j], xs[i], sums[i*w+j]) }
	if len(factors) < w {
		each(factors, func(i int) { VBROADCASTSS(factors[i], xs[i]) })
		each(vectors, func(j int) {
			VMOVUPS(vectors[j], vs[j])
			each(factors, func(i int) { add(i, j) })
		})
		return
	}
	each(vectors, func(j int) { VMOVUPS(vectors[j], vs[j]) })
	each(factors, func(i int) {
		VBROADCASTSS(factors[i], xs[i])
		each(vectors, func(j int) { add(i, j) })
	})
}

func each(ms []Mem, do func(i int)) {
	for i := range ms {
		do(i)
	}
}

// every is count places that lie step bytes apart.
func every(m Mem, count, step int) (ms []Mem) {
	for i := range count {
		ms = append(ms, m.Offset(i*step))
	}
	return ms
}

// scoreLoop adds up the products of n queries and some blocks.
func scoreLoop(s isa, n int, to, q Mem, blocks, next []Mem, dim reg.Register) {
	var keys []Mem
	for _, b := range blocks {
		keys = append(keys, every(b, s.regs, s.size)...)
	}
	sums := s.zeros(n * len(keys))
	loop := fmt.Sprintf("keys%d", n)
	Label(loop)
	for i := range blocks {
		PREFETCHT1(next[i])
		ADDQ(U8(4*keyBlock), next[i].Base)
	}
	s.outer(sums, every(q, n, 4), keys)
	for _, b := range blocks {
		ADDQ(U8(4*keyBlock), b.Base)
	}
	ADDQ(U8(4*n), q.Base)
	DECQ(dim)
	JNZ(LabelRef(loop))
	scale := s.broadcast(NewParamAddr("scale", 64))
	for i, sum := range sums {
		VMULPS(scale, sum, sum)
		VMOVUPS(sum, to.Offset(i/len(keys)*scoreStride+i%len(keys)*s.size))
	}
}

// widths are the registers of columns that n queries may take at once, the most
// first.
func (s isa) widths(n int) (ws []int) {
	for w := 8; w > 0; w /= 2 {
		if n*w <= s.accumulators() {
			ws = append(ws, w)
		}
	}
	return ws
}

func weighValues(s isa) {
	kernelOf(s, "weighValues", "n, columns, keys int, acc *float32, stride int, weights, values *float32, step int, next *float32", fmt.Sprintf(
		"adds keys values, step bytes apart and each multiplied by a query's weight, to columns registers of the accumulators of up to %d queries, stride bytes apart. Meanwhile it asks for as much memory at next. keys and columns are not 0.", s.queries()))
	n, columns := Load(Param("n"), GP64()), Load(Param("columns"), GP64())
	acc, stride := pointer("acc"), Load(Param("stride"), GP64())
	values, step := pointer("values"), Load(Param("step"), GP64())
	next := pointer("next")
	s.dispatch(n, func(n int) {
		for _, w := range s.widths(n) {
			again, after := fmt.Sprintf("queries%dby%d", n, w), fmt.Sprintf("queries%dafter%d", n, w)
			Label(again)
			CMPQ(columns, U8(w))
			JL(LabelRef(after))
			weighLoop(s, n, w, acc, stride, values, step, next)
			ADDQ(I32(w*s.size), acc.Base)
			ADDQ(I32(w*s.size), values.Base)
			SUBQ(U8(w), columns)
			JMP(LabelRef(again))
			Label(after)
		}
	})
}

// weighLoop does all keys for w registers of columns.
func weighLoop(s isa, n, w int, acc Mem, stride reg.Register, values Mem, step reg.Register, next Mem) {
	sums := s.group(n * w)
	eachRow := func(do func(row Mem, i int)) {
		row := Mem{Base: GP64()}
		MOVQ(acc.Base, row.Base)
		for i := range n {
			do(row, i)
			ADDQ(stride, row.Base)
		}
	}
	eachRow(func(row Mem, i int) {
		for j := range w {
			VMOVUPS(row.Offset(j*s.size), sums[i*w+j])
		}
	})
	keys, weights, at := Load(Param("keys"), GP64()), pointer("weights"), Mem{Base: GP64()}
	MOVQ(values.Base, at.Base)
	loop := fmt.Sprintf("values%dby%d", n, w)
	Label(loop)
	for offset := 0; offset < w*s.size; offset += 64 {
		PREFETCHT1(next.Offset(offset))
	}
	ADDQ(I32(w*s.size), next.Base)
	s.outer(sums, every(weights, n, scoreStride), every(at, w, s.size))
	ADDQ(U8(4), weights.Base)
	ADDQ(step, at.Base)
	DECQ(keys)
	JNZ(LabelRef(loop))
	eachRow(func(row Mem, i int) {
		for j := range w {
			VMOVUPS(sums[i*w+j], row.Offset(j*s.size))
		}
	})
}
