//go:build !linux

package kernel

import "sync"

// tokens is a semaphore for the helpers of a pool of one node.
type tokens struct {
	mu     sync.Mutex
	given  *sync.Cond
	count  int
	closed bool
}

// put adds n tokens and wakes up to n goroutines that sleep.
func (t *tokens) put(n int) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.count += n
	for range n {
		t.cond().Signal()
	}
}

// take sleeps until there is a token, and takes it. It returns false once close has been
// called.
func (t *tokens) take() bool {
	t.mu.Lock()
	defer t.mu.Unlock()
	for t.count == 0 && !t.closed {
		t.cond().Wait()
	}
	if t.closed {
		return false
	}
	t.count--
	return true
}

// close wakes all goroutines that sleep.
func (t *tokens) close() {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.closed = true
	t.cond().Broadcast()
}

// cond returns the condition, which its first call makes: the zero value of tokens is
// ready for use. The caller holds mu.
func (t *tokens) cond() *sync.Cond {
	if t.given == nil {
		t.given = sync.NewCond(&t.mu)
	}
	return t.given
}
