package m2n

import (
	"fmt"
	"sync"
	"time"
)

// taskGroup counts the goroutines and connections of an endpoint, so that Close can
// wait for them. Unlike a sync.WaitGroup it takes no new ones once the last one has
// ended, and its wait is bounded.
type taskGroup struct {
	mu    sync.Mutex
	n     int
	empty chan struct{} // made by wait; closed when n is 0
}

// spawn runs f on a goroutine, unless it is too late for one.
func (g *taskGroup) spawn(f func()) {
	if g.add() {
		go func() {
			defer g.done()
			f()
		}()
	}
}

// add counts one task more, until done; false where it is too late.
func (g *taskGroup) add() bool {
	g.mu.Lock()
	defer g.mu.Unlock()
	if g.empty != nil && g.n == 0 {
		return false
	}
	g.n++
	return true
}

func (g *taskGroup) done() {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.n--
	if g.n == 0 && g.empty != nil {
		close(g.empty)
	}
}

// wait waits until no task is left. After that, add returns false.
func (g *taskGroup) wait(limit time.Duration) error {
	g.mu.Lock()
	g.empty = make(chan struct{})
	if g.n == 0 {
		close(g.empty)
	}
	g.mu.Unlock()
	timeout := time.NewTimer(limit)
	defer timeout.Stop()
	select {
	case <-g.empty:
		return nil
	case <-timeout.C:
		g.mu.Lock()
		defer g.mu.Unlock()
		return fmt.Errorf("m2n: %d goroutines still run after %v: an Event does not heed its context", g.n, limit)
	}
}
