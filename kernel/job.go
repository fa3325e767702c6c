package kernel

import (
	"runtime"
	"sync/atomic"
	"time"
)

// job is a range of items that several threads work on. Its counters lie on cache lines
// of their own, because every thread of the job writes them.
type job struct {
	fn     func(lo, hi int)
	n      int64
	grain  int64         // items of a piece, at least
	share  int64         // a piece is the items that are left, divided by share
	finish chan struct{} // what the caller sleeps on; made before asleep is set

	_      [cacheLine]byte
	room   atomic.Int32 // threads that may still join
	next   atomic.Int64 // the first item that no thread has taken
	_      [cacheLine]byte
	ended  atomic.Int64 // items that are done
	asleep atomic.Bool  // the caller waits on finish
	_      [cacheLine]byte
}

func newJob(threads, n, grain int, fn func(lo, hi int)) *job {
	j := &job{fn: fn, n: int64(n), grain: int64(grain), share: int64(threads * sharesPerThread)}
	j.room.Store(int32(threads - 1))
	return j
}

// helpersWanted is how many threads beside the caller would find a piece to take.
func (j *job) helpersWanted() int {
	return int(min(int64(j.room.Load()), (j.n-1)/j.grain))
}

// open reports whether another thread could join.
func (j *job) open() bool { return j.room.Load() > 0 && j.next.Load() < j.n }

// join makes the calling thread one of the job's, and reports whether there was room.
func (j *job) join() bool {
	return j.open() && j.room.Add(-1) >= 0
}

// work takes pieces and runs them until none is left.
func (j *job) work() {
	for lo, hi := j.take(); lo < hi; lo, hi = j.take() {
		j.fn(int(lo), int(hi))
		j.end(hi - lo)
	}
}

// take returns the next piece, empty when none is left. Pieces are large at first, so
// that there are few of them, and small at the end, so that all threads end at about the
// same time.
func (j *job) take() (lo, hi int64) {
	for {
		lo = j.next.Load()
		if lo >= j.n {
			return lo, lo
		}
		hi = min(lo+max(j.grain, (j.n-lo)/j.share), j.n)
		if j.next.CompareAndSwap(lo, hi) {
			return lo, hi
		}
	}
}

// end counts items as done, and wakes the caller after the last one if it sleeps.
func (j *job) end(items int64) {
	if j.ended.Add(items) == j.n && j.asleep.Load() {
		j.finish <- struct{}{}
	}
}

// wait returns when every item is done. Helpers usually end their last pieces within
// spinTime of the caller, which spins for that long. It sleeps only where a helper has
// been descheduled.
func (j *job) wait() {
	if j.ended.Load() == j.n {
		return
	}
	for start := time.Now(); time.Since(start) < spinTime; runtime.Gosched() {
		for range 64 {
			if j.ended.Load() == j.n {
				return
			}
			pause()
		}
	}
	j.finish = make(chan struct{}, 1)
	j.asleep.Store(true)
	if j.ended.Load() != j.n {
		<-j.finish
	}
}
