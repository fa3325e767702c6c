package kernel

import (
	"runtime"
	"sync/atomic"
	"time"
)

// job is a range of work that threads share. Its counters lie on cache lines of
// their own: everybody who works writes them.
type job struct {
	fn     func(lo, hi int)
	n      int
	chunk  int
	chunks int32
	finish chan struct{} // made by the caller before it sets asleep

	_      [cacheLine]byte
	room   atomic.Int32 // threads that may still join
	next   atomic.Int32 // the next chunk to deal out
	_      [cacheLine]byte
	ended  atomic.Int32 // chunks that are done
	asleep atomic.Bool  // the caller waits on finish
	_      [cacheLine]byte
}

func newJob(helpers, n, chunk int, fn func(lo, hi int)) *job {
	j := &job{fn: fn, n: n, chunk: chunk, chunks: int32((n + chunk - 1) / chunk)}
	j.room.Store(int32(helpers))
	return j
}

// helpersWanted is how many threads beside the caller find something to do.
func (j *job) helpersWanted() int { return int(min(j.room.Load(), j.chunks-1)) }

// open reports whether another thread could join.
func (j *job) open() bool { return j.room.Load() > 0 && j.next.Load() < j.chunks }

// join takes a place among the threads of the job.
func (j *job) join() bool {
	return j.open() && j.room.Add(-1) >= 0
}

// work runs chunks until none is left to take.
func (j *job) work() {
	for {
		i := j.next.Add(1) - 1
		if i >= j.chunks {
			return
		}
		lo := int(i) * j.chunk
		j.fn(lo, min(lo+j.chunk, j.n))
		j.end()
	}
}

// end counts a chunk as done and wakes the caller after the last.
func (j *job) end() {
	if j.ended.Add(1) == j.chunks && j.asleep.Load() {
		j.finish <- struct{}{}
	}
}

// wait returns when every chunk is done. Helpers are usually within a chunk of
// the end: spin, and sleep only where one has been descheduled.
func (j *job) wait() {
	if j.ended.Load() == j.chunks {
		return
	}
	for start := time.Now(); time.Since(start) < spinTime; runtime.Gosched() {
		for range 64 {
			if j.ended.Load() == j.chunks {
				return
			}
			pause()
		}
	}
	j.finish = make(chan struct{}, 1)
	j.asleep.Store(true)
	if j.ended.Load() != j.chunks {
		<-j.finish
	}
}
