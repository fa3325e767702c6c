package shape

import (
	"sync"
	"time"
)

// alarm wakes the pacer. set may be called at any time; wait by one goroutine.
type alarm interface {
	// set moves the next ring to d from now.
	set(d time.Duration)
	// wait returns at the next ring; false once the alarm is closed.
	wait() bool
	close() error
}

// timerAlarm is an alarm of Go's timers.
type timerAlarm struct {
	timer *time.Timer
	end   func()
	over  chan struct{}
}

func newTimerAlarm() *timerAlarm {
	a := &timerAlarm{timer: time.NewTimer(time.Hour), over: make(chan struct{})}
	a.timer.Stop()
	a.end = sync.OnceFunc(func() { close(a.over) })
	return a
}

func (a *timerAlarm) set(d time.Duration) { a.timer.Reset(d) }

func (a *timerAlarm) wait() bool {
	select {
	case <-a.timer.C:
		return true
	case <-a.over:
		a.timer.Stop()
		return false
	}
}

func (a *timerAlarm) close() error {
	a.end()
	return nil
}
