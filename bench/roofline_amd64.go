package bench

import (
	"slices"
	"unsafe"

	"github.com/tandem-moe/tandem/kernel"
)

//go:generate go run -C ../tools ./asmgen -family roofline -out ../bench/roofline_amd64.s -stubs ../bench/roofline_stubs_amd64.go -pkg bench

// chains is the independent multiply-adds in a round of fmaAVX2 and fmaAVX512.
const chains = 12

func has(isa kernel.ISA) bool { return slices.Contains(kernel.Available(), isa) }

// flopsPerRound is the operations in a round of multiplyAdd.
func flopsPerRound() int {
	switch {
	case has(kernel.AVX512):
		return chains * 16 * 2
	case has(kernel.AVX2):
		return chains * 8 * 2
	}
	return scalarFlopsPerRound
}

// multiplyAdd does n rounds of the widest multiply-adds that the machine has.
func multiplyAdd(n int) {
	switch {
	case has(kernel.AVX512):
		fmaAVX512(n)
	case has(kernel.AVX2):
		fmaAVX2(n)
	default:
		scalarMultiplyAdd(n)
	}
}

// readMemory loads all of b, whose length is a multiple of 256.
func readMemory(b []byte) {
	switch {
	case has(kernel.AVX512):
		readAVX512(unsafe.SliceData(b), len(b)/256)
	case has(kernel.AVX2):
		readAVX2(unsafe.SliceData(b), len(b)/256)
	default:
		scalarRead(b)
	}
}
