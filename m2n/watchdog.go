package m2n

import "time"

// The watchdog of an endpoint looks at all its pairs, several times in a
// PeerTimeout: one goroutine for a thousand pairs.

// watch tells the watchdog of a new link, and starts it with the first.
func (e *Endpoint) wakeWatchdog() {
	e.mu.Lock()
	defer e.mu.Unlock()
	if e.watchdogWake == nil {
		e.watchdogWake = make(chan struct{}, 1)
		e.spawn(e.watchdog)
	}
	select {
	case e.watchdogWake <- struct{}{}:
	default:
	}
}

// How often the watchdog looks for a consumer that may be elsewhere: the longer,
// the longer nothing has come.
const (
	leastTick = 4 * time.Millisecond
	mostTick  = 32 * time.Millisecond
)

// guard looks until the endpoint is closed.
func (e *Endpoint) watchdog() {
	late, tick := false, leastTick
	due := now()
	for {
		tick = e.progressForConsumer(tick)
		if passed := now() - due; passed >= 0 {
			// A process that was stopped itself has heard of nobody: the readers get
			// one more interval to take what has come meanwhile.
			late = !late && passed > e.cfg.PeerTimeout/4
			due = now() + e.checkLinks(late)
		}
		if !e.watchdogSleep(min(due-now(), tick)) {
			return
		}
	}
}

// substitute reads for the consumer, and returns how soon to do so again.
func (e *Endpoint) progressForConsumer(tick time.Duration) time.Duration {
	g := e.engine.Load()
	if g == nil {
		return e.cfg.PeerTimeout
	}
	g.tryProgress()
	const long = 2 * leastTick
	if asked := tick > long && !g.watchdogRests.Load(); asked || g.progressedSince() {
		tick = 0
	}
	tick = min(max(2*tick, leastTick), mostTick)
	g.watchdogRests.Store(tick > long)
	return tick
}

// look checks every link, unless it is late, and returns when to look again.
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

// rest waits until it is time to look or a link is new; false at Close.
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
