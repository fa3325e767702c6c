package serve

import (
	"runtime"
	"time"
)

// yielder calls Go's scheduler now and then for a loop that never does: one that
// waits for other processes in system calls, and computes. After ten milliseconds
// without, the scheduler takes the processor away from whoever is in a system call,
// wait by wait, and its monitor looks for such loops every 20 µs, on a core that
// somebody computes on: a tenth of the machine was lost where nodes share two
// cores. To call it every time costs more: it wakes a thread to help.
type yielder struct{ last time.Time }

// yieldEvery leaves room for a wait of several milliseconds.
const yieldEvery = 4 * time.Millisecond

// yield is called before each wait.
func (y *yielder) yield() {
	if now := time.Now(); now.Sub(y.last) >= yieldEvery {
		y.last = now
		runtime.Gosched()
	}
}
