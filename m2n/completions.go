package m2n

import (
	"context"
	"sync"
	"sync/atomic"

	"github.com/tandem-moe/tandem/m2n/internal/poll"
)

// completions is the queue between the transports, which push, and the one
// consumer, which polls. A consumer that waits is woken through a channel, or by
// the gate's bell, where there is a gate; one that finds a completion there takes
// it without any hand-off.
type completionQueue struct {
	length atomic.Int64 // of ring's content, readable without the lock
	wakeup chan struct{}
	poller atomic.Pointer[poll.Poller]

	mu         sync.Mutex
	queue      fifo[Completion]
	parked     bool
	ended      bool
	watchedCtx context.Context // the consumer's, whose end is a signal while it waits
	unwatch    func() bool
}

func newCompletionQueue() *completionQueue { return &completionQueue{wakeup: make(chan struct{}, 1)} }

// push adds a completion. It is false, and nothing was added, for a message that
// arrives after close.
func (q *completionQueue) push(c Completion) bool {
	q.mu.Lock()
	if q.ended && c.Kind == Received {
		q.mu.Unlock()
		return false
	}
	q.queue.push(c)
	q.length.Store(int64(q.queue.len()))
	wake := q.parked
	q.parked = false
	q.mu.Unlock()
	if wake {
		q.signal()
	}
	return true
}

// signal ends the consumer's wait, or its next one.
func (q *completionQueue) signal() {
	if p := q.poller.Load(); p != nil {
		p.Wake()
		return
	}
	select {
	case q.wakeup <- struct{}{}:
	default:
	}
}

// ringAt makes the gate the place to wait; who waits already goes there.
func (q *completionQueue) wakeThrough(p *poll.Poller) {
	q.signal()
	q.poller.Store(p)
}

func (q *completionQueue) pop() (Completion, bool) {
	if q.length.Load() == 0 {
		return Completion{}, false
	}
	q.mu.Lock()
	defer q.mu.Unlock()
	c, ok := q.queue.pop()
	q.length.Store(int64(q.queue.len()))
	return c, ok
}

// await waits for a signal, unless there is something already.
func (q *completionQueue) waitForSignal() {
	if q.park() {
		<-q.wakeup
	}
}

// over says that there is nothing to wait for.
func (q *completionQueue) checkEnded(ctx context.Context) error {
	if err := ctx.Err(); err != nil {
		return err
	}
	q.mu.Lock()
	defer q.mu.Unlock()
	if q.ended && q.queue.len() == 0 {
		return ErrClosed
	}
	return nil
}

// watch makes the end of ctx a signal, so that waiting is for one thing only. A
// consumer waits with the same context again and again, or with one that is soon
// over.
func (q *completionQueue) watchContext(ctx context.Context) {
	q.mu.Lock()
	defer q.mu.Unlock()
	if q.watchedCtx != nil && ctx.Done() == q.watchedCtx.Done() {
		return
	}
	q.unwatchContext()
	if !q.ended {
		q.watchedCtx, q.unwatch = ctx, context.AfterFunc(ctx, func() { q.contextEnded(ctx.Done()) })
	}
}

// expire ends the wait whose context has ended, and no other: most contexts end
// because their wait has, and a signal then would end the next one for nothing.
func (q *completionQueue) contextEnded(done <-chan struct{}) {
	q.mu.Lock()
	waits := q.parked && q.watchedCtx != nil && q.watchedCtx.Done() == done
	if waits {
		q.parked = false
	}
	q.mu.Unlock()
	if waits {
		q.signal()
	}
}

func (q *completionQueue) unwatchContext() {
	if q.unwatch != nil {
		q.unwatch()
		q.watchedCtx, q.unwatch = nil, nil
	}
}

// park asks the next push for a signal, unless there is something already, or the
// consumer's context has ended.
func (q *completionQueue) park() bool {
	q.mu.Lock()
	defer q.mu.Unlock()
	if q.queue.len() > 0 || q.ended || q.watchedCtx != nil && q.watchedCtx.Err() != nil {
		return false
	}
	q.parked = true
	return true
}

// unpark takes that back.
func (q *completionQueue) unpark() {
	q.mu.Lock()
	defer q.mu.Unlock()
	q.parked = false
}

// close ends the waiting and returns the messages that nobody has polled. What
// else is queued can still be popped.
func (q *completionQueue) close() (messages []Completion) {
	q.mu.Lock()
	defer q.mu.Unlock()
	if q.ended {
		return nil
	}
	q.ended = true
	q.unwatchContext()
	defer q.signal()
	for range q.queue.len() {
		c, _ := q.queue.pop()
		if c.Kind == Received {
			messages = append(messages, c)
		} else {
			q.queue.push(c)
		}
	}
	q.length.Store(int64(q.queue.len()))
	return messages
}

// fifo is a first-in, first-out queue that keeps its memory.
type fifo[T any] struct {
	buf  []T
	head int
	n    int
}

func (r *fifo[T]) len() int { return r.n }

func (r *fifo[T]) push(v T) {
	if r.n == len(r.buf) {
		r.grow()
	}
	r.buf[(r.head+r.n)%len(r.buf)] = v
	r.n++
}

func (r *fifo[T]) grow() {
	buf := make([]T, max(8, 2*len(r.buf)))
	for i := range r.n {
		buf[i] = r.buf[(r.head+i)%len(r.buf)]
	}
	r.buf, r.head = buf, 0
}

// front returns the oldest element, which must exist.
func (r *fifo[T]) front() T { return r.buf[r.head] }

func (r *fifo[T]) pop() (T, bool) {
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
func (r *fifo[T]) at(i int) T { return r.buf[(r.head+i)%len(r.buf)] }
