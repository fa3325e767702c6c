package crc32c

import (
	"math/bits"
	"slices"

	"golang.org/x/sys/cpu"
)

//go:generate go run -C ../../tools ./asmgen -family crc32c -out ../m2n/crc32c/fold_amd64.s -stubs ../m2n/crc32c/fold_stubs_amd64.go -pkg crc32c

// roundBytes are what fold takes at a time.
const roundBytes = 256

// leastFolded is from where folding is the faster.
const leastFolded = 2 * roundBytes

// canFold tells whether the machine has what fold needs.
var canFold = cpu.X86.HasAVX512F && cpu.X86.HasAVX512VL && cpu.X86.HasAVX512VPCLMULQDQ

func update(crc uint32, b []byte) uint32 {
	if !canFold || len(b) < leastFolded {
		return portable(crc, b)
	}
	return folded(crc, b)
}

// folded needs len(b) ≥ roundBytes. hash/crc32 gives and takes the register
// inverted.
func folded(crc uint32, b []byte) uint32 {
	rounds := len(b) / roundBytes
	var rest [16]byte
	fold(&rest, ^crc, &b[0], rounds, &constants)
	const empty = ^uint32(0)
	return portable(portable(empty, rest[:]), b[rounds*roundBytes:])
}

// constants has, for the distances of a round, a vector and a lane, what the lower
// and the upper 64 bits of a lane are multiplied by.
var constants = [6]uint64(slices.Concat(over(8*roundBytes), over(8*64), over(8*16)))

// over returns the two constants of a distance in bits. Bits are in reverse, which
// shifts a product by one; a constant has 32 bits above its power, which are taken
// off its exponent.
func over(distance int) []uint64 {
	return []uint64{2 * uint64(bits.Reverse32(power(distance+32))), 2 * uint64(bits.Reverse32(power(distance-32)))}
}

// power returns xⁿ modulo the polynomial; bit i is the coefficient of xⁱ.
func power(n int) uint32 {
	const polynomial = 0x1edc6f41 // without x³²
	r := uint32(1)
	for range n {
		over := r>>31 != 0
		r <<= 1
		if over {
			r ^= polynomial
		}
	}
	return r
}
