package bench

import (
	"time"

	"github.com/tandem-moe/tandem/kernel"
)

// Roofline is what a machine can do at most, measured.
type Roofline struct {
	FMA1  float64 // float32 operations a second on one thread, two to a multiply-add
	FMA   float64 // the same on all threads
	Read1 float64 // bytes a second read from memory by one thread
	Read  float64 // the same by all threads
}

// predict is the least time that so many operations and bytes need, in seconds.
func (r Roofline) predict(flops, bytes float64) float64 {
	return max(flops/r.FMA, bytes/r.Read)
}

const (
	fmaRounds = 20_000    // in a piece of work: about 50 µs
	readPiece = 256 << 10 // bytes
)

// rooflineBench measures a roofline again and again.
type rooflineBench struct {
	pool    *kernel.Pool
	threads int
	memory  []byte // more than any cache holds, in huge pages where weights are
}

func (b *rooflineBench) measure() Roofline {
	return Roofline{FMA1: b.fma(1), FMA: b.fma(b.threads), Read1: b.read(1), Read: b.read(b.threads)}
}

// fma times independent multiply-adds in registers.
func (b *rooflineBench) fma(threads int) float64 {
	pieces := 40 * threads
	start := time.Now()
	b.pool.Run(threads, pieces, 1, func(lo, hi int) { multiplyAdd(fmaRounds * (hi - lo)) })
	return float64(flopsPerRound()*fmaRounds*pieces) / time.Since(start).Seconds()
}

// read times reading all of the memory once.
func (b *rooflineBench) read(threads int) float64 {
	start := time.Now()
	b.pool.Run(threads, len(b.memory)/readPiece, 1, func(lo, hi int) { readMemory(b.memory[lo*readPiece : hi*readPiece]) })
	return float64(len(b.memory)) / time.Since(start).Seconds()
}
