package api

import "sync"

// gate counts the requests inside, and lets none in once it is shut.
type gate struct {
	mu     sync.Mutex
	inside int
	closed bool
	empty  chan struct{}
}

func newGate() *gate { return &gate{empty: make(chan struct{})} }

func (g *gate) enter() bool {
	g.mu.Lock()
	defer g.mu.Unlock()
	if g.closed {
		return false
	}
	g.inside++
	return true
}

func (g *gate) leave() {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.inside--
	g.check()
}

// shut lets nobody in any more; the channel closes when all have left.
func (g *gate) shut() <-chan struct{} {
	g.mu.Lock()
	defer g.mu.Unlock()
	if !g.closed {
		g.closed = true
		g.check()
	}
	return g.empty
}

func (g *gate) check() {
	if g.closed && g.inside == 0 {
		close(g.empty)
	}
}

func (g *gate) shutting() bool {
	g.mu.Lock()
	defer g.mu.Unlock()
	return g.closed
}
