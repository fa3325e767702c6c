package main

import (
	. "github.com/mmcloughlin/avo/build"
	. "github.com/mmcloughlin/avo/operand"
	"github.com/mmcloughlin/avo/reg"
)

// coded writes what brings rows to the formats in which they travel, and back.
// They take whole blocks of sixteen elements; the caller does what is left.
func coded() {
	define("magnitude", 1<<31-1)
	define("roundUp", 0x7fff)
	define("oddBit", 1)
	define("quietBit", 1<<6)
	for _, s := range isas() {
		maxBits(s)
		quantize(s)
		dequantize(s)
		narrowBF16(s)
		widenBF16(s)
	}
}

// and is a & b of integers.
func (s isa) and(a, b, to Op) {
	if s.size == 64 {
		VPANDD(a, b, to)
		return
	}
	VPAND(a, b, to)
}

// or is a | b of integers.
func (s isa) or(a, b, to Op) {
	if s.size == 64 {
		VPORD(a, b, to)
		return
	}
	VPOR(a, b, to)
}

func maxBits(s isa) {
	kernelOf(s, "maxBits", "blocks int, x *float32) (bits uint32", "is the largest of the bits of 16·blocks elements without their signs. blocks is not 0.")
	x := pointer("x")
	acc := s.zeros(s.regs)
	s.forBlocks("loop", []Mem{x}, func(o, i int) {
		v := s.constant("magnitude")
		s.and(x.Offset(o), v, v)
		VPMAXSD(v, acc[i], acc[i])
	})
	bits := GP32()
	VMOVD(s.fold(acc, VPMAXSD).(reg.VecVirtual).AsX(), bits)
	Store(bits, ReturnIndex(0))
	VZEROUPPER()
	RET()
}

func quantize(s isa) {
	kernelOf(s, "quantize", "blocks int, dst *int8, x *float32, inverse float32", "rounds x·inverse, of magnitudes up to 127, to integers: 16·blocks elements. blocks is not 0.")
	ps := pointers("dst", "x")
	dst, x := ps[0], ps[1]
	inverse := s.broadcast(NewParamAddr("inverse", 24))
	s.forBlocksOf("loop", []Mem{dst, x}, []int{16, 64}, func() {
		v := s.group(s.regs)
		for i, v := range v {
			VMULPS(x.Offset(i*s.size), inverse, v)
			VCVTPS2DQ(v, v)
		}
		if s.regs == 1 {
			VPMOVDB(v[0], dst)
			return
		}
		high := XMM()
		packPair(v, func(a, b, to Op) { VPACKSSDW(a, b, to) })
		VEXTRACTI128(U8(1), v[0], high)
		VPACKSSWB(high, v[0].AsX(), v[0].AsX())
		VMOVDQU(v[0].AsX(), dst)
	})
}

// packPair narrows two registers of eight words to one, in order, in the first.
// The instruction does it by halves.
func packPair(v []reg.VecVirtual, pack func(a, b, to Op)) {
	const evenThenOdd = 0b11_01_10_00 // quarters 0, 2, 1, 3
	pack(v[1], v[0], v[0])
	VPERMQ(U8(evenThenOdd), v[0], v[0])
}

func dequantize(s isa) {
	kernelOf(s, "dequantize", "blocks int, dst *float32, x *int8, scale float32", "is dst = x·scale for 16·blocks elements. blocks is not 0.")
	ps := pointers("dst", "x")
	dst, x := ps[0], ps[1]
	scale := s.broadcast(NewParamAddr("scale", 24))
	s.forBlocksOf("loop", []Mem{dst, x}, []int{64, 16}, func() {
		for i, v := range s.group(s.regs) {
			VPMOVSXBD(x.Offset(i*s.size/4), v)
			VCVTDQ2PS(v, v)
			VMULPS(v, scale, v)
			VMOVUPS(v, dst.Offset(i*s.size))
		}
	})
}

func narrowBF16(s isa) {
	kernelOf(s, "narrowBF16", "blocks int, dst *uint16, x *float32", "rounds 16·blocks elements to bfloat16. blocks is not 0.")
	ps := pointers("dst", "x")
	dst, x := ps[0], ps[1]
	odd, up, quiet := s.constant("oddBit"), s.constant("roundUp"), s.constant("quietBit")
	s.forBlocksOf("loop", []Mem{dst, x}, []int{32, 64}, func() {
		v := s.group(s.regs)
		for i, v := range v {
			nan, high := s.new(), s.new()
			VMOVUPS(x.Offset(i*s.size), v)
			VPSRLD(U8(16), v, high)
			s.or(quiet, high, nan)
			s.and(odd, high, high)
			VPADDD(up, high, high)
			s.whereNaN(v, func() { VPADDD(high, v, high); VPSRLD(U8(16), high, high) }, nan, high)
		}
		if s.regs == 1 {
			VPMOVDW(v[0], dst)
			return
		}
		packPair(v, func(a, b, to Op) { VPACKUSDW(a, b, to) })
		VMOVDQU(v[0], dst)
	})
}

// whereNaN replaces x by nan where it is NaN and by other, which compute makes,
// elsewhere.
func (s isa) whereNaN(x reg.VecVirtual, compute func(), nan, other reg.VecVirtual) {
	const unordered = 3
	if s.regs == 1 {
		mask := K()
		VCMPPS(U8(unordered), x, x, mask)
		compute()
		VMOVDQA32(other, x)
		VMOVDQA32(nan, mask, x)
		return
	}
	mask := YMM()
	VCMPPS(U8(unordered), x, x, mask)
	compute()
	VBLENDVPS(mask, nan, other, x)
}

func widenBF16(s isa) {
	kernelOf(s, "widenBF16", "blocks int, dst *float32, x *uint16", "widens 16·blocks elements of bfloat16. blocks is not 0.")
	ps := pointers("dst", "x")
	dst, x := ps[0], ps[1]
	s.forBlocksOf("loop", []Mem{dst, x}, []int{64, 32}, func() {
		for i, v := range s.group(s.regs) {
			VPMOVZXWD(x.Offset(i*s.size/2), v)
			VPSLLD(U8(16), v, v)
			VMOVUPS(v, dst.Offset(i*s.size))
		}
	})
}

// forBlocksOf is a whole kernel of one loop, in which each pointer advances by
// bytes of its own.
func (s isa) forBlocksOf(label string, ps []Mem, bytes []int, body func()) {
	blocks := Load(Param("blocks"), GP64())
	Label(label)
	body()
	for i, p := range ps {
		ADDQ(U8(bytes[i]), p.Base)
	}
	DECQ(blocks)
	JNZ(LabelRef(label))
	VZEROUPPER()
	RET()
}
