package bench

import (
	"encoding/binary"
	"sync/atomic"
)

// scalarLoops are in Go.
func scalarLoops() loops { return loops{8, scalarMultiplyAdd, scalarRead} }

// used keeps results of measurements, so that the compiler keeps their making.
var used atomic.Uint64

// scalarMultiplyAdd does n rounds of four multiply-adds.
func scalarMultiplyAdd(n int) {
	var a, b, c, d float32
	x := float32(n & 1)
	for range n {
		a, b, c, d = x*a+x, x*b+x, x*c+x, x*d+x
	}
	used.Add(uint64(a + b + c + d))
}

// scalarRead loads all of b.
func scalarRead(b []byte) {
	var sum uint64
	for ; len(b) >= 8; b = b[8:] {
		sum |= binary.LittleEndian.Uint64(b)
	}
	used.Add(sum)
}
