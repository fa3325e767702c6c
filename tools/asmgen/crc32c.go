package main

import (
	. "github.com/mmcloughlin/avo/build"
	. "github.com/mmcloughlin/avo/operand"
	"github.com/mmcloughlin/avo/reg"
)

// accumulators hide the latency of carry-less multiplication; a round takes 64
// bytes for each.
const accumulators = 4

// sumOfThree is the truth table of a ^ b ^ c for VPTERNLOGD.
const sumOfThree = 0x96

// crc32c writes the folding of a message to 16 bytes of the same checksum (Gopal
// et al., "Fast CRC Computation for Generic Polynomials Using PCLMULQDQ", Intel,
// 2009), in vectors of four times that width.
func crc32c() {
	TEXT("fold", NOSPLIT, "func(rest *[16]byte, register uint32, p *byte, rounds int, k *[6]uint64)")
	Pragma("noescape")
	Doc(
		"fold leaves in rest what has, from an empty register, the checksum that 256·rounds",
		"bytes at p have from the register given. rounds is not 0. It needs AVX-512 and",
		"VPCLMULQDQ.")
	rest := Mem{Base: Load(Param("rest"), GP64())}
	register := Load(Param("register"), GP32())
	p := Mem{Base: Load(Param("p"), GP64())}
	rounds := Load(Param("rounds"), GP64())
	k := Mem{Base: Load(Param("k"), GP64())}

	// The register goes into the first bytes.
	first, all := XMM(), make([]reg.VecVirtual, accumulators)
	VMOVD(register, first)
	for i := range all {
		all[i] = ZMM()
		VMOVDQU64(p.Offset(64*i), all[i])
	}
	VPXORQ(first.AsZ(), all[0], all[0])
	overRound, overVector := ZMM(), ZMM()
	VBROADCASTI32X4(k, overRound)
	VBROADCASTI32X4(k.Offset(16), overVector)
	JMP(LabelRef("next"))

	Label("round")
	for i, a := range all {
		advance(a, overRound, p.Offset(64*i), ZMM)
	}
	Label("next")
	ADDQ(I32(64*accumulators), p.Base)
	DECQ(rounds)
	JNZ(LabelRef("round"))

	sum := all[0]
	for _, a := range all[1:] {
		advance(sum, overVector, a, ZMM)
	}
	// Of one vector, the four lanes.
	overLane := XMM()
	VMOVDQU(k.Offset(32), overLane)
	lane := XMM()
	VEXTRACTI32X4(U8(0), sum, lane)
	for i := range 3 {
		next := XMM()
		VEXTRACTI32X4(U8(i+1), sum, next)
		advance(lane, overLane, next, XMM)
	}
	VMOVDQU(lane, rest)
	VZEROUPPER()
	RET()
}

// advance moves a over the distance that k is for, and adds what is there.
func advance(a, k reg.VecVirtual, there Op, vector func() reg.VecVirtual) {
	low, high := vector(), vector()
	VPCLMULQDQ(U8(0x00), k, a, low)
	VPCLMULQDQ(U8(0x11), k, a, high)
	VMOVDQU64(there, a)
	VPTERNLOGD(U8(sumOfThree), low, high, a)
}
