package m2n

import (
	"context"
	"sync"
	"sync/atomic"

	"github.com/tandem-moe/tandem/m2n/internal/poll"
)

// completionQueue is the queue between links, which push, and the one consumer, which
// pops. A consumer with nothing to pop parks, and the next push wakes it: through the
// poller, where the endpoint has one and the consumer waits there, else through a
// channel.
type completionQueue struct {
	length atomic.Int64 // of queue, readable without the lock
	wakeup chan struct{}
	poller atomic.Pointer[poll.Poller]

	mu         sync.Mutex
	queue      fifo[Completion]
	parked     bool            // the consumer waits, or is about to
	ended      bool            // closed
	watchedCtx context.Context // the consumer's, whose end wakes it
	unwatch    func() bool
}

func newCompletionQueue() *completionQueue {
	return &completionQueue{wakeup: make(chan struct{}, 1)}
}

// push adds a completion. It returns false, and adds nothing, for a message that
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
	default: // a signal is waiting already
	}
}

// wakeThrough has the consumer wait in the poller from now on. A consumer that waits
// for the channel is sent there.
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

// waitForSignal waits, unless there is something to pop already.
func (q *completionQueue) waitForSignal() {
	if q.park() {
		<-q.wakeup
	}
}

// checkEnded returns an error where the consumer must not wait: ctx is over, or the
// queue is closed and empty.
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

// watchContext has the end of ctx signal the consumer, which can wait for one thing
// only. Consumers call with the same context again and again, or with contexts that are
// soon over: so the watch is kept until another context comes.
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

// contextEnded signals a consumer that waits with this context. It does not signal
// otherwise: most contexts end after their wait, and a signal then would end the next
// wait for nothing.
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

// park has the next push signal the consumer, which waits then. It returns false where
// the consumer must not wait: there is something to pop, or its context has ended.
func (q *completionQueue) park() bool {
	q.mu.Lock()
	defer q.mu.Unlock()
	if q.queue.len() > 0 || q.ended || q.watchedCtx != nil && q.watchedCtx.Err() != nil {
		return false
	}
	q.parked = true
	return true
}

// unpark is called by a consumer that waits no more: the next push signals nobody.
func (q *completionQueue) unpark() {
	q.mu.Lock()
	defer q.mu.Unlock()
	q.parked = false
}

// close ends the consumer's wait, and returns the messages that it has not polled. Other
// completions can still be popped.
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

// fifo is a first-in, first-out queue in a ring buffer that grows and keeps its memory.
type fifo[T any] struct {
	buf  []T
	head int // index of the oldest element
	n    int
}

func (q *fifo[T]) len() int { return q.n }

func (q *fifo[T]) push(v T) {
	if q.n == len(q.buf) {
		q.grow()
	}
	q.buf[(q.head+q.n)%len(q.buf)] = v
	q.n++
}

func (q *fifo[T]) grow() {
	buf := make([]T, max(8, 2*len(q.buf)))
	for i := range q.n {
		buf[i] = q.buf[(q.head+i)%len(q.buf)]
	}
	q.buf, q.head = buf, 0
}

// front returns the oldest element, which must exist.
func (q *fifo[T]) front() T { return q.buf[q.head] }

func (q *fifo[T]) pop() (T, bool) {
	var zero T
	if q.n == 0 {
		return zero, false
	}
	v := q.buf[q.head]
	q.buf[q.head] = zero
	q.head = (q.head + 1) % len(q.buf)
	q.n--
	return v, true
}

// at returns the i-th oldest element, which must exist.
func (q *fifo[T]) at(i int) T { return q.buf[(q.head+i)%len(q.buf)] }
