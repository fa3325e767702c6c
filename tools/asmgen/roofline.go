package main

import (
	. "github.com/mmcloughlin/avo/build"
	. "github.com/mmcloughlin/avo/operand"
	"github.com/mmcloughlin/avo/reg"
)

// roofline writes what package bench measures a machine's limits with, for each
// width of vectors:
//
//	fma…:  n rounds of chains independent fused multiply-adds
//	read…: loads n lines from memory, and returns something of each
func roofline() {
	for _, v := range []struct {
		name  string
		bytes int
		new   func() reg.VecVirtual
	}{{"AVX2", 32, YMM}, {"AVX512", 64, ZMM}} {
		fmaKernel(v.name, v.new)
		readKernel(v.name, v.bytes, v.new)
	}
}

// chains hide the latency of a fused multiply-add on every processor: four or
// five cycles, two of them starting in each.
const chains = 12

func fmaKernel(name string, vector func() reg.VecVirtual) {
	TEXT("fma"+name, NOSPLIT, "func(n int)")
	Doc("fma" + name + " does n rounds of 12 independent vector multiply-adds.")
	n := Load(Param("n"), GP64())
	x := vector()
	VXORPS(x, x, x)
	sums := make([]reg.VecVirtual, chains)
	for i := range sums {
		sums[i] = vector()
		VXORPS(sums[i], sums[i], sums[i])
	}
	Label("loop")
	for _, s := range sums {
		VFMADD231PS(x, x, s)
	}
	DECQ(n)
	JNZ(LabelRef("loop"))
	VZEROUPPER()
	RET()
}

func readKernel(name string, bytes int, vector func() reg.VecVirtual) {
	const lines = 4 // of 64 bytes in a round
	TEXT("read"+name, NOSPLIT, "func(p *byte, n int)")
	Pragma("noescape")
	Doc("read" + name + " loads n rounds of 256 bytes.")
	p := Mem{Base: Load(Param("p"), GP64())}
	n := Load(Param("n"), GP64())
	sum := vector()
	VXORPS(sum, sum, sum)
	Label("loop")
	for at := 0; at < 64*lines; at += 64 {
		PREFETCHT0(p.Offset(at + 2048))
	}
	for at := 0; at < 64*lines; at += bytes {
		VORPS(p.Offset(at), sum, sum)
	}
	ADDQ(I32(64*lines), p.Base)
	DECQ(n)
	JNZ(LabelRef("loop"))
	VZEROUPPER()
	RET()
}
