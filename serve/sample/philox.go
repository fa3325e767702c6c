package sample

import "math/bits"

// philox is Philox4x32-10 (Salmon et al., "Parallel Random Numbers: As Easy as
// 1, 2, 3", SC 2011): ten rounds of multiplication and exclusive or that turn a
// counter into random bits under a key. It has no state, so that a draw can be
// repeated anywhere.
func philox(counter [4]uint32, key [2]uint32) [4]uint32 {
	const (
		m0, m1 = 0xD2511F53, 0xCD9E8D57
		w0, w1 = 0x9E3779B9, 0xBB67AE85 // the golden ratio and √3−1
	)
	for range 10 {
		hi0, lo0 := bits.Mul32(m0, counter[0])
		hi1, lo1 := bits.Mul32(m1, counter[2])
		counter = [4]uint32{hi1 ^ counter[1] ^ key[0], lo1, hi0 ^ counter[3] ^ key[1], lo0}
		key[0] += w0
		key[1] += w1
	}
	return counter
}

// random64 returns the 64 random bits that decide the token at an output position.
// The seed is the key; position (64 bits) and choice are the counter. The counter's
// last word is 0, which leaves other values for other uses of the same seed.
func random64(seed uint64, choice uint32, position uint64) uint64 {
	r := philox(
		[4]uint32{uint32(position), uint32(position >> 32), choice, 0},
		[2]uint32{uint32(seed), uint32(seed >> 32)},
	)
	return uint64(r[1])<<32 | uint64(r[0])
}
