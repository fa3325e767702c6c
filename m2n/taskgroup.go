package m2n

import (
	"fmt"
	"sync"
	"time"
)

// owned counts the goroutines and connections of an endpoint, so that Close can
// wait for them.
type taskGroup struct {
	mu    sync.Mutex
	n     int
	empty chan struct{} // made by wait; closed when n is 0
}

// spawn runs f, unless wait has seen the last one end.
func (o *taskGroup) spawn(f func()) {
	if o.add() {
		go func() {
			defer o.done()
			f()
		}()
	}
}

// enter counts one more, until exit; false where it is too late.
func (o *taskGroup) add() bool {
	o.mu.Lock()
	defer o.mu.Unlock()
	if o.empty != nil && o.n == 0 {
		return false
	}
	o.n++
	return true
}

func (o *taskGroup) done() {
	o.mu.Lock()
	defer o.mu.Unlock()
	o.n--
	if o.n == 0 && o.empty != nil {
		close(o.empty)
	}
}

// wait lets no more goroutines start, and waits for those that run.
func (o *taskGroup) wait(limit time.Duration) error {
	o.mu.Lock()
	o.empty = make(chan struct{})
	if o.n == 0 {
		close(o.empty)
	}
	o.mu.Unlock()
	timeout := time.NewTimer(limit)
	defer timeout.Stop()
	select {
	case <-o.empty:
		return nil
	case <-timeout.C:
		o.mu.Lock()
		defer o.mu.Unlock()
		return fmt.Errorf("m2n: %d goroutines still run after %v: an Event does not heed its context", o.n, limit)
	}
}
