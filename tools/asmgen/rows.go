package main

import (
	. "github.com/mmcloughlin/avo/build"
	. "github.com/mmcloughlin/avo/operand"
	"github.com/mmcloughlin/avo/reg"
)

// rows writes elementwise operations on rows. They need AVX2 only: memory bounds
// them.
func rows() {
	TEXT("addAVX2", NOSPLIT, "func(blocks int, dst, a, b *float32)")
	Pragma("noescape")
	Doc("addAVX2 is dst = a + b for 8·blocks elements. blocks is not 0.")
	blocks := Load(Param("blocks"), GP64())
	dst, a, b := pointer("dst"), pointer("a"), pointer("b")
	eachBlock(blocks, []Mem{dst, a, b}, func(v reg.VecVirtual) {
		VMOVUPS(a, v)
		VADDPS(b, v, v)
		VMOVUPS(v, dst)
	})

	TEXT("scaleAVX2", NOSPLIT, "func(blocks int, x *float32, s float32)")
	Pragma("noescape")
	Doc("scaleAVX2 multiplies 8·blocks elements by s. blocks is not 0.")
	blocks = Load(Param("blocks"), GP64())
	x := pointer("x")
	s := YMM()
	VBROADCASTSS(NewParamAddr("s", 16), s)
	eachBlock(blocks, []Mem{x}, func(v reg.VecVirtual) {
		VMULPS(x, s, v)
		VMOVUPS(v, x)
	})
}

func pointer(name string) Mem { return Mem{Base: Load(Param(name), GP64())} }

// eachBlock repeats body while the pointers advance by eight floats.
func eachBlock(blocks reg.Register, pointers []Mem, body func(v reg.VecVirtual)) {
	Label("loop")
	body(YMM())
	for _, p := range pointers {
		ADDQ(U8(32), p.Base)
	}
	DECQ(blocks)
	JNZ(LabelRef("loop"))
	VZEROUPPER()
	RET()
}
