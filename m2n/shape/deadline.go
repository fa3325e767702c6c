package shape

import (
	"os"
	"sync"
	"time"
)

// deadline is when the reads, or the writes, of a connection time out. It may be moved
// while they wait.
type deadline struct {
	mu      *sync.Mutex
	timer   *time.Timer
	passed  chan struct{} // closed when the deadline has passed
	version int           // counts the sets, so that the timer of an earlier one does nothing
}

func newDeadline() deadline {
	return deadline{mu: new(sync.Mutex), passed: make(chan struct{})}
}

// set moves the deadline; the zero time means none.
func (d *deadline) set(t time.Time) {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.version++
	if d.timer != nil {
		d.timer.Stop()
		d.timer = nil
	}
	if isClosed(d.passed) {
		d.passed = make(chan struct{})
	}
	if t.IsZero() {
		return
	}
	if left := time.Until(t); left > 0 {
		version := d.version
		d.timer = time.AfterFunc(left, func() { d.pass(version) })
		return
	}
	close(d.passed)
}

func (d *deadline) pass(version int) {
	d.mu.Lock()
	defer d.mu.Unlock()
	if version == d.version {
		close(d.passed)
	}
}

func isClosed(c chan struct{}) bool {
	select {
	case <-c:
		return true
	default:
		return false
	}
}

func (d *deadline) done() chan struct{} {
	d.mu.Lock()
	defer d.mu.Unlock()
	return d.passed
}

func (d *deadline) over() bool { return isClosed(d.done()) }

// await waits for a signal, at most until the deadline. Where the deadline is moved while
// its timer fires, the wait begins anew.
func (d *deadline) await(b notifier) error {
	select {
	case <-b:
		return nil
	case <-d.done():
		return os.ErrDeadlineExceeded
	}
}
