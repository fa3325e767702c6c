package kernel

import (
	"sync/atomic"
	"syscall"
	"unsafe"

	"golang.org/x/sys/unix"
)

// tokens is a semaphore on which a thread sleeps, by a futex, and not only a goroutine. A
// woken thread runs 4 µs later, as soon as the kernel has a core for it. A goroutine that
// a channel makes runnable waits in the queue of the thread that woke it, until another
// thread has been woken and has stolen it: that takes Go's scheduler 75 to 100 µs. The
// price is that a sleeping thread keeps its P (Go's right to run goroutines) until the
// scheduler's monitor takes it away, up to 10 ms later.
type tokens struct {
	count  atomic.Uint32
	closed atomic.Bool
}

const (
	futexWaitPrivate = 128
	futexWakePrivate = 129
)

// put adds n tokens and wakes up to n sleeping threads.
func (t *tokens) put(n int) {
	t.count.Add(uint32(n))
	t.futex(futexWakePrivate, uintptr(n))
}

// take sleeps until there is a token, and takes it. It returns false once close has been
// called.
func (t *tokens) take() bool {
	for {
		if t.closed.Load() {
			return false
		}
		n := t.count.Load()
		if n == 0 {
			t.futex(futexWaitPrivate, 0)
			continue
		}
		if t.count.CompareAndSwap(n, n-1) {
			return true
		}
	}
}

// close wakes all sleeping threads. A huge count makes FUTEX_WAIT return at once for a
// helper that read closed before close set it and has not gone to sleep yet.
func (t *tokens) close() {
	t.closed.Store(true)
	t.count.Store(1 << 30)
	t.futex(futexWakePrivate, 1<<30)
}

// futex sleeps while the count equals value, or wakes value threads. A wait ends early
// where the count is another one or a signal comes: take checks the count again after
// each wait.
func (t *tokens) futex(operation, value uintptr) {
	_, _, _ = syscall.Syscall6(unix.SYS_FUTEX, uintptr(unsafe.Pointer(&t.count)), operation, value, 0, 0, 0)
}
