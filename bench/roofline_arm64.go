package bench

import "unsafe"

// machineLoops are those with NEON, which every such processor has.
func machineLoops() loops {
	return loops{16 * 4 * 2, fmaNEON, func(b []byte) { readNEON(unsafe.SliceData(b), len(b)/readLine) }}
}

// fmaNEON does n rounds of 16 independent vector multiply-adds. n is not 0.
func fmaNEON(n int)

// readNEON loads n rounds of 256 bytes. n is not 0.
//
//go:noescape
func readNEON(p *byte, n int)
