package kernel

import (
	"sync/atomic"
	"syscall"
	"unsafe"

	"golang.org/x/sys/unix"
)

// tokens is a semaphore for which threads sleep, not goroutines: who is woken runs
// 4 µs later, as soon as the kernel has a core. A goroutine that is made runnable
// waits in its waker's queue until another thread has been woken and steals it,
// which Go's scheduler does after a sleep of its own: 75 to 100 µs. A thread that
// sleeps so keeps its processor of Go's until somebody needs it, up to 10 ms.
type tokens struct {
	count  atomic.Uint32
	closed atomic.Bool
}

const (
	futexWaitPrivate = 128
	futexWakePrivate = 129
)

// put lets n sleepers go.
func (t *tokens) put(n int) {
	t.count.Add(uint32(n))
	t.futex(futexWakePrivate, uintptr(n))
}

// take sleeps until there is a token, and takes it; false once they are closed.
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

// close lets all sleepers go. It changes the count, so that who is about to sleep
// does not: a token that nobody takes but who has looked at closed before.
func (t *tokens) close() {
	t.closed.Store(true)
	t.count.Store(1 << 30)
	t.futex(futexWakePrivate, 1<<30)
}

// futex waits while the count is value, or wakes value threads. It fails where the
// count is another one, and where a signal interrupts it: who waits looks again.
func (t *tokens) futex(operation, value uintptr) {
	_, _, _ = syscall.Syscall6(unix.SYS_FUTEX, uintptr(unsafe.Pointer(&t.count)), operation, value, 0, 0, 0)
}
