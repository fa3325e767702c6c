package shape

import (
	"sync"
	"time"
)

// alarm wakes the pacer. Any goroutine may call set, one at a time wait.
type alarm interface {
	// set has wait return d from now, and not before.
	set(d time.Duration)
	// wait waits for the time of the last set. It returns false once the alarm is closed.
	wait() bool
	close() error
}

// timerAlarm is an alarm made of a Go timer.
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
