package m2n

import (
	"context"
	"runtime"
	"sync"
	"sync/atomic"
	"time"
)

// completions is the queue between the transports, which push, and the one
// consumer, which polls. A waiting consumer is woken through a channel; one that
// finds a completion there takes it without any hand-off.
type completions struct {
	length atomic.Int64 // of ring's content, readable without the lock
	wake   chan struct{}
	closed chan struct{}

	mu     sync.Mutex
	ring   ring[Completion]
	parked bool
	ended  bool
}

func newCompletions() *completions {
	return &completions{wake: make(chan struct{}, 1), closed: make(chan struct{})}
}

// push adds a completion. It is false, and nothing was added, for a message that
// arrives after close.
func (q *completions) push(c Completion) bool {
	q.mu.Lock()
	if q.ended && c.Kind == Received {
		q.mu.Unlock()
		return false
	}
	q.ring.push(c)
	q.length.Store(int64(q.ring.len()))
	wake := q.parked
	q.parked = false
	q.mu.Unlock()
	if wake {
		q.signal()
	}
	return true
}

func (q *completions) signal() {
	select {
	case q.wake <- struct{}{}:
	default:
	}
}

func (q *completions) pop() (Completion, bool) {
	if q.length.Load() == 0 {
		return Completion{}, false
	}
	q.mu.Lock()
	defer q.mu.Unlock()
	c, ok := q.ring.pop()
	q.length.Store(int64(q.ring.len()))
	return c, ok
}

// wait returns nil when there may be something to pop.
func (q *completions) wait(ctx context.Context, spin time.Duration) error {
	if spin > 0 && q.spin(ctx, spin) {
		return nil
	}
	if !q.park() {
		return nil
	}
	select {
	case <-q.wake:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	case <-q.closed:
		if q.length.Load() > 0 {
			return nil
		}
		return ErrClosed
	}
}

// spin looks for a completion for at most d.
func (q *completions) spin(ctx context.Context, d time.Duration) bool {
	deadline := time.Now().Add(d)
	for i := 1; ; i++ {
		if q.length.Load() > 0 {
			return true
		}
		if i%16 == 0 && (ctx.Err() != nil || time.Now().After(deadline)) {
			return false
		}
		runtime.Gosched()
	}
}

// park asks the next push for a signal, unless there is something already.
func (q *completions) park() bool {
	q.mu.Lock()
	defer q.mu.Unlock()
	if q.ring.len() > 0 {
		return false
	}
	q.parked = true
	return true
}

// close ends the waiting and returns the messages that nobody has polled. What
// else is queued can still be popped.
func (q *completions) close() (messages []Completion) {
	q.mu.Lock()
	defer q.mu.Unlock()
	if q.ended {
		return nil
	}
	q.ended = true
	close(q.closed)
	for range q.ring.len() {
		c, _ := q.ring.pop()
		if c.Kind == Received {
			messages = append(messages, c)
		} else {
			q.ring.push(c)
		}
	}
	q.length.Store(int64(q.ring.len()))
	return messages
}

// ring is a first-in, first-out queue that keeps its memory.
type ring[T any] struct {
	buf  []T
	head int
	n    int
}

func (r *ring[T]) len() int { return r.n }

func (r *ring[T]) push(v T) {
	if r.n == len(r.buf) {
		r.grow()
	}
	r.buf[(r.head+r.n)%len(r.buf)] = v
	r.n++
}

func (r *ring[T]) grow() {
	buf := make([]T, max(8, 2*len(r.buf)))
	for i := range r.n {
		buf[i] = r.buf[(r.head+i)%len(r.buf)]
	}
	r.buf, r.head = buf, 0
}

// front returns the oldest element, which must exist.
func (r *ring[T]) front() T { return r.buf[r.head] }

func (r *ring[T]) pop() (T, bool) {
	var zero T
	if r.n == 0 {
		return zero, false
	}
	v := r.buf[r.head]
	r.buf[r.head] = zero
	r.head = (r.head + 1) % len(r.buf)
	r.n--
	return v, true
}

// at returns the i-th oldest element, which must exist.
func (r *ring[T]) at(i int) T { return r.buf[(r.head+i)%len(r.buf)] }
