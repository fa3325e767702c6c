package bench

import "unsafe"

// flopsPerRound is the operations in a round of multiplyAdd.
func flopsPerRound() int { return 16 * 4 * 2 }

// multiplyAdd does n rounds of multiply-adds.
func multiplyAdd(n int) { fmaNEON(n) }

// readMemory loads all of b, whose length is a multiple of 256.
func readMemory(b []byte) { readNEON(unsafe.SliceData(b), len(b)/256) }

// fmaNEON does n rounds of 16 independent vector multiply-adds. n is not 0.
func fmaNEON(n int)

// readNEON loads n rounds of 256 bytes. n is not 0.
//
//go:noescape
func readNEON(p *byte, n int)
