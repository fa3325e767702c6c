package bench

import (
	"context"
	"errors"
	"sync"
	"time"

	"github.com/tandem-moe/tandem/kernel"
)

// gate is the device of an attention node that can be held at the beginning of a
// step: while it is held, all sequences of a run arrive, so that the next step
// finds them together, and a run's work does not depend on who was scheduled
// when. A step begins with its rows' embeddings.
type gate struct {
	kernel.Device

	mu    sync.Mutex
	state gateState
	held  chan struct{} // closed when a step is held
	open  chan struct{} // closed when it may go on
	began func()        // called when the next step begins
}

type gateState uint8

const (
	free     gateState = iota
	armed              // the next step is held
	holding            // a step is held
	watching           // the beginning of the next step is reported
)

// arm holds the next step, and calls began when the one after it begins.
func (g *gate) arm(began func()) {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.state, g.began = armed, began
	g.held, g.open = make(chan struct{}), make(chan struct{})
}

// holdTimeout bounds the wait for a step.
const holdTimeout = 30 * time.Second

// wait returns when a step is held.
func (g *gate) wait(ctx context.Context) error {
	ctx, cancel := context.WithTimeoutCause(ctx, holdTimeout, errors.New("an attention node was given no request"))
	defer cancel()
	select {
	case <-g.held:
		return nil
	case <-ctx.Done():
		return context.Cause(ctx)
	}
}

// release lets the held step go on; where none is held, none will be.
func (g *gate) release() {
	g.mu.Lock()
	defer g.mu.Unlock()
	switch g.state {
	case armed:
		g.state = free
	case holding:
		g.state = watching
		close(g.open)
	}
}

// Embed begins a step.
func (g *gate) Embed(dst kernel.Mat, table kernel.Weight, ids []int32) {
	g.pass()
	g.Device.Embed(dst, table, ids)
}

func (g *gate) pass() {
	g.mu.Lock()
	state, open := g.state, g.open
	switch state {
	case armed:
		g.state = holding
		close(g.held)
	case watching:
		g.state = free
	}
	g.mu.Unlock()
	switch state {
	case armed:
		<-open
	case watching:
		g.began()
	}
}
