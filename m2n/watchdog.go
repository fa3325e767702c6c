package m2n

import "time"

// The watchdog of an endpoint looks at all its pairs, several times in a
// PeerTimeout: one goroutine for a thousand pairs.

// watch tells the watchdog of a new link, and starts it with the first.
func (e *Endpoint) watch() {
	e.mu.Lock()
	defer e.mu.Unlock()
	if e.watched == nil {
		e.watched = make(chan struct{}, 1)
		e.spawn(e.guard)
	}
	select {
	case e.watched <- struct{}{}:
	default:
	}
}

// guard looks until the endpoint is closed.
func (e *Endpoint) guard() {
	var late bool
	due := now()
	for {
		// A process that was stopped itself has heard of nobody: the readers get one
		// more interval to take what has come meanwhile.
		late = !late && now()-due > e.cfg.PeerTimeout/4
		next := e.look(late)
		due = now() + next
		if !e.rest(next) {
			return
		}
	}
}

// look checks every link, unless it is late, and returns when to look again.
func (e *Endpoint) look(late bool) time.Duration {
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

func (p *pair) upLink() link {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.phase != up {
		return nil
	}
	return p.link
}

// rest waits until it is time to look or a link is new; false at Close.
func (e *Endpoint) rest(d time.Duration) bool {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-t.C:
	case <-e.watched:
	case <-e.ctx.Done():
		return false
	}
	return true
}
