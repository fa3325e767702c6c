//go:build !linux

package kernel

import "sync"

// tokens is a semaphore.
type tokens struct {
	mu     sync.Mutex
	given  *sync.Cond
	count  int
	closed bool
}

// put lets n sleepers go.
func (t *tokens) put(n int) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.count += n
	for range n {
		t.cond().Signal()
	}
}

// take sleeps until there is a token, and takes it; false once they are closed.
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

// close lets all sleepers go.
func (t *tokens) close() {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.closed = true
	t.cond().Broadcast()
}

// cond is made by who comes first. The caller holds the lock.
func (t *tokens) cond() *sync.Cond {
	if t.given == nil {
		t.given = sync.NewCond(&t.mu)
	}
	return t.given
}
