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

// best is the higher of each limit: what disturbs a measurement lowers it.
func (r Roofline) best(o Roofline) Roofline {
	return Roofline{FMA1: max(r.FMA1, o.FMA1), FMA: max(r.FMA, o.FMA), Read1: max(r.Read1, o.Read1), Read: max(r.Read, o.Read)}
}

// loops are the fastest that the processor has. They are chosen once, and not
// where they run: a virtual machine traps the instruction that tells what a
// processor has, and a trap takes longer than reading 64 KB.
type loops struct {
	flops       int            // of a round of multiplyAdd
	multiplyAdd func(n int)    // does n rounds of independent multiply-adds in registers; n is not 0
	read        func(b []byte) // loads all of b, whose length is a multiple of readLine and not 0
}

const (
	fmaRounds = 20_000 // in a piece of work: about 50 µs
	// fmaPieces are those of each thread in a window, some 10 ms: waking a thread
	// takes up to a hundredth of that. On a busy machine a longer window would
	// seldom pass undisturbed.
	fmaPieces = 200
	readPiece = 1 << 20 // bytes of memory that one thread reads at a time
	readLine  = 256     // bytes of a stream before the next stream's
	// warmTime lets a processor that was idle reach its full clock.
	warmTime = 300 * time.Millisecond
)

// readStreams are the numbers of places that a thread reads by turns. The products'
// kernels read several panels of a weight at once. A processor's prefetcher stops
// at the end of a page, and other streams go on meanwhile: on a Zen 3 one thread
// reads 15.5 GB/s from one place and 21 from four.
func readStreams() []int { return []int{1, 2, 4} }

// rooflineBench measures a roofline again and again.
type rooflineBench struct {
	pool    *kernel.Pool
	threads int
	memory  []byte // a multiple of readPiece, more than any cache holds, in huge pages where weights are
	loops   loops
	windows int // so many have been measured of each limit
}

func newRooflineBench(pool *kernel.Pool, memory []byte) *rooflineBench {
	b := &rooflineBench{pool: pool, threads: pool.Workers(), memory: memory, loops: machineLoops()}
	for start := time.Now(); time.Since(start) < warmTime; {
		b.fma(b.threads)
	}
	return b
}

// window measures each limit once.
func (b *rooflineBench) window() Roofline {
	b.windows++
	r := Roofline{FMA1: b.fma(1), FMA: b.fma(b.threads)}
	for _, streams := range readStreams() {
		r = r.best(Roofline{Read1: b.read(1, streams), Read: b.read(b.threads, streams)})
	}
	return r
}

// fma times independent multiply-adds in registers.
func (b *rooflineBench) fma(threads int) float64 {
	pieces := fmaPieces * threads
	start := time.Now()
	b.pool.Run(threads, pieces, 1, func(lo, hi int) { b.loops.multiplyAdd(fmaRounds * (hi - lo)) })
	return float64(b.loops.flops*fmaRounds*pieces) / time.Since(start).Seconds()
}

// read times reading all of the memory once, each piece as so many streams.
func (b *rooflineBench) read(threads, streams int) float64 {
	start := time.Now()
	b.pool.Run(threads, len(b.memory)/readPiece, 1, func(lo, hi int) {
		for i := lo; i < hi; i++ {
			b.readPiece(b.memory[i*readPiece:][:readPiece], streams)
		}
	})
	return float64(len(b.memory)) / time.Since(start).Seconds()
}

// readPiece reads a piece as so many streams, a line of each in turn. streams
// divides the piece's lines.
func (b *rooflineBench) readPiece(piece []byte, streams int) {
	if streams == 1 {
		b.loops.read(piece)
		return
	}
	part := len(piece) / streams
	for at := 0; at < part; at += readLine {
		for s := range streams {
			b.loops.read(piece[s*part+at:][:readLine])
		}
	}
}
