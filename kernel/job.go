package kernel

import (
	"runtime"
	"sync/atomic"
	"time"
)

// job is a range of items that threads share. Its counters lie on cache lines of
// their own: everybody who works writes them.
type job struct {
	fn     func(lo, hi int)
	n      int64
	grain  int64         // the least items to take
	share  int64         // takes what is left, divided by this
	finish chan struct{} // made by the caller before it sets asleep

	_      [cacheLine]byte
	room   atomic.Int32 // threads that may still join
	next   atomic.Int64 // the first item that nobody has taken
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

// helpersWanted is how many threads beside the caller find something to do.
func (j *job) helpersWanted() int {
	return int(min(int64(j.room.Load()), (j.n-1)/j.grain))
}

// open reports whether another thread could join.
func (j *job) open() bool { return j.room.Load() > 0 && j.next.Load() < j.n }

// join takes a place among the threads of the job.
func (j *job) join() bool {
	return j.open() && j.room.Add(-1) >= 0
}

// work runs pieces until nothing is left to take.
func (j *job) work() {
	for lo, hi := j.take(); lo < hi; lo, hi = j.take() {
		j.fn(int(lo), int(hi))
		j.end(hi - lo)
	}
}

// take deals out the next piece: large at first, so that there are few, and
// small at the end, so that all threads end together.
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

// end counts items as done and wakes the caller after the last.
func (j *job) end(items int64) {
	if j.ended.Add(items) == j.n && j.asleep.Load() {
		j.finish <- struct{}{}
	}
}

// wait returns when every item is done. Helpers are usually within a piece of
// the end: spin, and sleep only where one has been descheduled.
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
