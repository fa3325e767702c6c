package bench

import (
	"slices"
	"unsafe"

	"github.com/tandem-moe/tandem/kernel"
)

//go:generate go run -C ../tools ./asmgen -family roofline -out ../bench/roofline_amd64.s -stubs ../bench/roofline_stubs_amd64.go -pkg bench

// chains is the independent multiply-adds in a round of fmaAVX2 and fmaAVX512.
const chains = 12

// machineLoops are those with the widest vectors that the machine has.
func machineLoops() loops {
	switch isas := kernel.Available(); {
	case slices.Contains(isas, kernel.AVX512):
		return loops{chains * 16 * 2, fmaAVX512, func(b []byte) { readAVX512(unsafe.SliceData(b), len(b)/readLine) }}
	case slices.Contains(isas, kernel.AVX2):
		return loops{chains * 8 * 2, fmaAVX2, func(b []byte) { readAVX2(unsafe.SliceData(b), len(b)/readLine) }}
	}
	return scalarLoops()
}
