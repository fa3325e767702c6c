package m2n

import "time"

// The watchdog is one goroutine for all pairs of an endpoint. It has two duties: to
// notice peers that are silent and send keep-alives, several times in a PeerTimeout; and
// to drive the progress engine while the consumer does not poll.

// wakeWatchdog has the watchdog look at all links soon, as one is new. The first link
// starts it.
func (e *Endpoint) wakeWatchdog() {
	e.mu.Lock()
	defer e.mu.Unlock()
	if e.watchdogWake == nil {
		e.watchdogWake = make(chan struct{}, 1)
		e.spawn(e.watchdog)
	}
	select {
	case e.watchdogWake <- struct{}{}:
	default: // it is woken already
	}
}

// How often the watchdog drives the engine: the longer nothing has come, the less often.
const (
	leastTick = 4 * time.Millisecond
	mostTick  = 32 * time.Millisecond
)

// watchdog runs until the endpoint is closed.
func (e *Endpoint) watchdog() {
	late, tick := false, leastTick
	due := now() // when the links are to be checked
	for {
		tick = e.driveForConsumer(tick)
		if passed := now() - due; passed >= 0 {
			// A process that was itself stopped has heard nothing of any peer: readers
			// get one more interval to read what has come meanwhile.
			late = !late && passed > e.cfg.PeerTimeout/4
			due = now() + e.checkLinks(late)
		}
		if !e.watchdogSleep(min(due-now(), tick)) {
			return
		}
	}
}

// driveForConsumer drives the engine once, and returns after which time to do so again.
func (e *Endpoint) driveForConsumer(tick time.Duration) time.Duration {
	g := e.engine.Load()
	if g == nil {
		return e.cfg.PeerTimeout
	}
	g.tryProgress()
	const long = 2 * leastTick
	if asked := tick > long && !g.watchdogRests.Load(); asked || g.progressed() {
		tick = 0
	}
	tick = min(max(2*tick, leastTick), mostTick)
	g.watchdogRests.Store(tick > long)
	return tick
}

// checkLinks checks the links of all pairs that are up, unless the watchdog is late, and
// returns after which time to do so again.
func (e *Endpoint) checkLinks(late bool) time.Duration {
	next := e.cfg.PeerTimeout / 8
	for _, p := range e.allPairs() {
		l := p.upLink()
		if l == nil {
			continue
		}
		if !late {
			l.check(now())
		}
		next = min(next, l.interval())
	}
	return next
}

// watchdogSleep waits for d, or until the watchdog is woken. It returns false at Close.
func (e *Endpoint) watchdogSleep(d time.Duration) bool {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-t.C:
	case <-e.watchdogWake:
	case <-e.ctx.Done():
		return false
	}
	return true
}
