package main

import (
	"fmt"
	"math"

	. "github.com/mmcloughlin/avo/build"
	. "github.com/mmcloughlin/avo/operand"
	"github.com/mmcloughlin/avo/reg"
)

// These agree with package kernel.
const lanes = 16 // of a reduction

// isa is an instruction set, as kernels see it that take sixteen floats at a
// time, whatever the width of a register.
type isa struct {
	name string
	regs int // that hold sixteen floats
	size int // of a register, in bytes
	new  func() reg.VecVirtual
	// scale2 is x·2ⁿ, rounded once, for an integer n in float32.
	scale2 func(x, n reg.VecVirtual)
}

// isas are the instruction sets that kernels are written for.
func isas() []isa {
	return []isa{
		{name: "AVX2", regs: 2, size: 32, new: YMM, scale2: multiplyPowers},
		{name: "AVX512", regs: 1, size: 64, new: ZMM, scale2: func(x, n reg.VecVirtual) { VSCALEFPS(n, x, x) }},
	}
}

// group is n new registers.
func (s isa) group(n int) []reg.VecVirtual {
	g := make([]reg.VecVirtual, n)
	for i := range g {
		g[i] = s.new()
	}
	return g
}

// zeros is n registers of zeros.
func (s isa) zeros(n int) []reg.VecVirtual {
	g := s.group(n)
	for _, v := range g {
		VXORPS(v, v, v)
	}
	return g
}

// broadcast fills a register with a scalar in memory.
func (s isa) broadcast(m Mem) reg.VecVirtual {
	v := s.new()
	VBROADCASTSS(m, v)
	return v
}

// vector writes the primitives of norms, softmax and the like. They take whole
// blocks of sixteen floats; the caller does what is left.
func vector() {
	defineConstants()
	for _, s := range isas() {
		sumSquares(s)
		normRow(s)
		rotate(s)
		swiGLU(s)
		softmax(s)
		extremes(s)
		sumExp(s)
		divideRow(s)
		rescaleAdd(s)
	}
}

// constants are vectors of sixteen equal values, in memory. They agree with
// package detmath.
var constants = map[string]Mem{}

// define puts a constant into memory.
func define(name string, bits uint32) {
	m := GLOBL(name, RODATA|NOPTR)
	for i := range lanes {
		DATA(4*i, U32(bits))
	}
	constants[name] = m
}

func defineConstants() {
	for _, c := range []struct {
		name  string
		value float32
	}{
		{"expMin", -104}, {"expMax", 89}, {"log2E", 0x1.715476p+0}, {"magic", 0x1.8p+23},
		{"ln2Hi", 0x1.62e4p-1}, {"ln2Lo", 0x1.7f7d1cp-20},
		{"exp2", 0x1.fffffcp-2}, {"exp3", 0x1.555490p-3}, {"exp4", 0x1.5558f8p-5},
		{"exp5", 0x1.123b04p-7}, {"exp6", 0x1.6a2276p-10}, {"one", 1},
		{"infinity", float32(math.Inf(1))}, {"minusInfinity", float32(math.Inf(-1))},
	} {
		define(c.name, math.Float32bits(c.value))
	}
	define("exponentBias", 127)
	define("signBit", 1<<31)
}

// constant loads a constant.
func (s isa) constant(name string) reg.VecVirtual {
	v := s.new()
	VMOVUPS(constants[name], v)
	return v
}

// exp replaces x by its exponential: detmath.Exp32, step by step. Min and max
// return their second operand, here x, where it is NaN.
func (s isa) exp(x reg.VecVirtual) {
	limit := s.constant("expMin")
	VMAXPS(x, limit, x)
	VMOVUPS(constants["expMax"], limit)
	VMINPS(x, limit, x)

	n := s.constant("log2E")
	VFMADD213PS(constants["magic"], x, n)
	VSUBPS(constants["magic"], n, n)
	VFNMADD231PS(constants["ln2Hi"], n, x)
	VFNMADD231PS(constants["ln2Lo"], n, x)

	p := s.constant("exp6")
	for _, c := range []string{"exp5", "exp4", "exp3", "exp2", "one", "one"} {
		VFMADD213PS(constants[c], x, p)
	}
	s.scale2(p, n)
	VMOVAPS(p, x)
}

// multiplyPowers is scale2 by two factors, of which the first is exact.
func multiplyPowers(x, n reg.VecVirtual) {
	half := YMM()
	VCVTPS2DQ(n, n)
	VPSRAD(U8(1), n, half)
	VPSUBD(half, n, n)
	for _, power := range []reg.VecVirtual{half, n} {
		VPADDD(constants["exponentBias"], power, power)
		VPSLLD(U8(23), power, power)
		VMULPS(power, x, x)
	}
}

// kernelOf begins a kernel of that name for an instruction set.
func kernelOf(s isa, name, args, doc string) {
	TEXT(name+s.name, NOSPLIT, "func("+args+")")
	Pragma("noescape")
	Doc(fmt.Sprintf("%s%s %s", name, s.name, doc))
}

// pointers loads parameters.
func pointers(names ...string) []Mem {
	ms := make([]Mem, len(names))
	for i, n := range names {
		ms[i] = pointer(n)
	}
	return ms
}

// forBlocks repeats body for each block, while the pointers advance. body gets
// the offset of a register within the block and its number.
func (s isa) forBlocks(label string, ps []Mem, body func(offset, i int)) {
	blocks := Load(Param("blocks"), GP64())
	Label(label)
	for i := range s.regs {
		body(i*s.size, i)
	}
	for _, p := range ps {
		ADDQ(U8(64), p.Base)
	}
	DECQ(blocks)
	JNZ(LabelRef(label))
}

// forRows is a whole kernel of one loop.
func (s isa) forRows(ps []Mem, body func(offset int)) {
	s.forBlocks("loop", ps, func(offset, _ int) { body(offset) })
	VZEROUPPER()
	RET()
}

func sumSquares(s isa) {
	kernelOf(s, "sumSquares", "blocks int, x, lanes *float32", "adds the squares of 16·blocks elements to sixteen lanes, fused. blocks is not 0.")
	ps := pointers("x", "lanes")
	x, to := ps[0], ps[1]
	acc := s.group(s.regs)
	for i, a := range acc {
		VMOVUPS(to.Offset(i*s.size), a)
	}
	s.forBlocks("loop", []Mem{x}, func(offset, i int) {
		v := s.new()
		VMOVUPS(x.Offset(offset), v)
		VFMADD231PS(v, v, acc[i])
	})
	for i, a := range acc {
		VMOVUPS(a, to.Offset(i*s.size))
	}
	VZEROUPPER()
	RET()
}

func normRow(s isa) {
	kernelOf(s, "normRow", "blocks int, dst, x, w *float32, scale float32", "is dst = (x·scale)·w for 16·blocks elements. blocks is not 0.")
	ps := pointers("dst", "x", "w")
	scale := s.broadcast(NewParamAddr("scale", 32))
	s.forRows(ps, func(o int) {
		v := s.new()
		VMULPS(ps[1].Offset(o), scale, v)
		VMULPS(ps[2].Offset(o), v, v)
		VMOVUPS(v, ps[0].Offset(o))
	})
}

func rotate(s isa) {
	kernelOf(s, "rotate", "blocks int, a, b, cos, sin *float32", "turns 16·blocks pairs (a, b) to (a·cos − b·sin, b·cos + a·sin), each product rounded. blocks is not 0.")
	ps := pointers("a", "b", "cos", "sin")
	s.forRows(ps, func(o int) {
		cos, sin, ac, bc := s.new(), s.new(), s.new(), s.new()
		VMOVUPS(ps[2].Offset(o), cos)
		VMOVUPS(ps[3].Offset(o), sin)
		VMULPS(ps[0].Offset(o), cos, ac)
		VMULPS(ps[1].Offset(o), cos, bc)
		VMULPS(ps[1].Offset(o), sin, cos)
		VMULPS(ps[0].Offset(o), sin, sin)
		VSUBPS(cos, ac, ac)
		VADDPS(sin, bc, bc)
		VMOVUPS(ac, ps[0].Offset(o))
		VMOVUPS(bc, ps[1].Offset(o))
	})
}

func swiGLU(s isa) {
	kernelOf(s, "swiGLU", "blocks int, dst, gate, up *float32", "is dst = gate/(1+exp(−gate))·up for 16·blocks elements. blocks is not 0.")
	ps := pointers("dst", "gate", "up")
	s.forRows(ps, func(o int) {
		g, e := s.new(), s.new()
		VMOVUPS(ps[1].Offset(o), g)
		VXORPS(constants["signBit"], g, e)
		s.exp(e)
		VADDPS(constants["one"], e, e)
		VDIVPS(e, g, g)
		VMULPS(ps[2].Offset(o), g, g)
		VMOVUPS(g, ps[0].Offset(o))
	})
}

func softmax(s isa) {
	kernelOf(s, "softmax", "blocks int, x *float32) (maximum, sum float32", "replaces 16·blocks elements by exp(x−maximum) and sums them by the tree of lanes. NaNs are not counted in the maximum. blocks is not 0.")
	x := pointer("x")
	m := s.extreme("maximum", x, VMAXPS, "minusInfinity")
	Store(m.AsX(), ReturnIndex(0))
	VBROADCASTSS(m.AsX(), m)

	x = pointer("x")
	sums := s.zeros(s.regs)
	s.forBlocks("sum", []Mem{x}, func(o, i int) {
		v := s.new()
		VMOVUPS(x.Offset(o), v)
		VSUBPS(m, v, v)
		s.exp(v)
		VMOVUPS(v, x.Offset(o))
		VADDPS(v, sums[i], sums[i])
	})
	Store(s.fold(sums, VADDPS), ReturnIndex(1))
	VZEROUPPER()
	RET()
}

func extremes(s isa) {
	kernelOf(s, "extremes", "blocks int, x *float32) (low, high float32", "is the smallest and the largest of 16·blocks elements, NaNs not counted. blocks is not 0.")
	low := s.extreme("low", pointer("x"), VMINPS, "infinity")
	Store(low.AsX(), ReturnIndex(0))
	high := s.extreme("high", pointer("x"), VMAXPS, "minusInfinity")
	Store(high.AsX(), ReturnIndex(1))
	VZEROUPPER()
	RET()
}

// extreme passes over all elements with an operation that returns its second
// operand where the first is NaN, and returns the result in element 0.
func (s isa) extreme(label string, x Mem, op func(...Op), start string) reg.VecVirtual {
	acc := s.group(2 * s.regs) // two chains: an operation takes several cycles
	for _, a := range acc {
		VMOVUPS(constants[start], a)
	}
	// An odd block goes to the first chain alone.
	blocks, odd, pairs := Load(Param("blocks"), GP64()), label+"Odd", label+"Pairs"
	done := label + "Done"
	take := func(offset, to int) {
		for i := range s.regs {
			v := s.new()
			VMOVUPS(x.Offset(offset+i*s.size), v)
			op(acc[to+i], v, acc[to+i])
		}
	}
	SUBQ(U8(2), blocks)
	JL(LabelRef(odd))
	Label(pairs)
	take(0, 0)
	take(64, s.regs)
	SUBQ(I8(-128), x.Base)
	SUBQ(U8(2), blocks)
	JGE(LabelRef(pairs))
	Label(odd)
	CMPQ(blocks, I8(-1))
	JNE(LabelRef(done))
	take(0, 0)
	Label(done)
	for i := range s.regs {
		op(acc[s.regs+i], acc[i], acc[i])
	}
	s.fold(acc[:s.regs], op)
	return acc[0]
}

// fold combines lanes by halves: 8, 4, 2, 1. The result is element 0 of the
// first register, which is returned.
func (s isa) fold(v []reg.VecVirtual, op func(...Op)) reg.Register {
	first := v[0]
	if s.regs == 2 {
		op(v[1], first, first)
	} else {
		high := YMM()
		VEXTRACTF64X4(U8(1), first, high)
		op(high, first.AsY(), first.AsY())
	}
	high := XMM()
	VEXTRACTF128(U8(1), first.AsY(), high)
	x := first.AsX()
	op(high, x, x)
	for _, swap := range []U8{0b1110, 0b0001} {
		VPERMILPS(swap, x, high)
		op(high, x, x)
	}
	return x
}

func sumExp(s isa) {
	kernelOf(s, "sumExp", "blocks int, x, lanes *float32, m float32", "adds exp(x−m) of 16·blocks elements to sixteen lanes. blocks is not 0.")
	ps := pointers("x", "lanes")
	x, to := ps[0], ps[1]
	m := s.broadcast(NewParamAddr("m", 24))
	acc := s.group(s.regs)
	for i, a := range acc {
		VMOVUPS(to.Offset(i*s.size), a)
	}
	s.forBlocks("loop", []Mem{x}, func(o, i int) {
		v := s.new()
		VMOVUPS(x.Offset(o), v)
		VSUBPS(m, v, v)
		s.exp(v)
		VADDPS(v, acc[i], acc[i])
	})
	for i, a := range acc {
		VMOVUPS(a, to.Offset(i*s.size))
	}
	VZEROUPPER()
	RET()
}

func divideRow(s isa) {
	kernelOf(s, "divideRow", "blocks int, dst, x *float32, d float32", "is dst = x/d for 16·blocks elements. blocks is not 0.")
	ps := pointers("dst", "x")
	d := s.broadcast(NewParamAddr("d", 24))
	s.forRows(ps, func(o int) {
		v := s.new()
		VMOVUPS(ps[1].Offset(o), v)
		VDIVPS(d, v, v)
		VMOVUPS(v, ps[0].Offset(o))
	})
}

func rescaleAdd(s isa) {
	kernelOf(s, "rescaleAdd", "blocks int, x, y *float32, scale, weight float32", "is x = fma(y, weight, x·scale) for 16·blocks elements. blocks is not 0.")
	ps := pointers("x", "y")
	scale, weight := s.broadcast(NewParamAddr("scale", 24)), s.broadcast(NewParamAddr("weight", 28))
	s.forRows(ps, func(o int) {
		v := s.new()
		VMULPS(ps[0].Offset(o), scale, v)
		VFMADD231PS(ps[1].Offset(o), weight, v)
		VMOVUPS(v, ps[0].Offset(o))
	})
}
