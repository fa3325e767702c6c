package m2n

import (
	"context"
	"runtime"
	"sync"
	"sync/atomic"
	"time"
)

// engine reads what comes from other processes. Nobody reads for the consumer:
// Poll itself waits in the gate and reads, so that a message costs no hand-over
// between goroutines. While the consumer is elsewhere the watchdog looks, a
// thousand times a second as long as something comes.
type engine struct {
	gate    *gate
	pump    *pump
	driving sync.Mutex // held by who reads
	moves   atomic.Uint64
	known   uint64 // of moves; the watchdog's
	pumping sync.WaitGroup
}

// source is something that the gate watches.
type source interface {
	// ready is called by the driver when there may be something to read.
	ready()
}

// engine returns the endpoint's, which its first connection makes.
func (e *Endpoint) engine() (*engine, error) {
	e.mu.Lock()
	defer e.mu.Unlock()
	if g := e.eng.Load(); g != nil {
		return g, nil
	}
	gate, err := newGate()
	if err != nil {
		return nil, err
	}
	pump, err := newPump()
	if err != nil {
		gate.close()
		return nil, err
	}
	eng := &engine{gate: gate, pump: pump}
	eng.pumping.Go(pump.run)
	e.eng.Store(eng)
	e.done.ringAt(gate)
	return eng, nil
}

// stop is called when nothing is left to read or write.
func (g *engine) stop() {
	g.pump.close()
	g.pumping.Wait()
	g.driving.Lock()
	defer g.driving.Unlock()
	g.gate.close()
}

// look reads what is there, unless somebody does.
func (g *engine) look() {
	if g.driving.TryLock() {
		g.drive(0)
		g.driving.Unlock()
	}
}

// drive waits for at most limit for something to read, and reads. The caller
// holds driving.
func (g *engine) drive(limit time.Duration) {
	if n := g.gate.wait(limit); n > 0 {
		g.moves.Add(1)
	}
}

// moved tells whether something came since it was last asked, by the watchdog.
func (g *engine) moved() bool {
	n := g.moves.Load()
	defer func() { g.known = n }()
	return n != g.known
}

// wait returns nil when there may be a completion to pop.
func (e *Endpoint) wait(ctx context.Context) error {
	e.done.watch(ctx)
	if err := e.done.over(ctx); err != nil {
		return err
	}
	g := e.eng.Load()
	if g == nil {
		if e.cfg.SpinFor <= 0 || !e.spin(ctx, runtime.Gosched) {
			e.done.await()
		}
		return nil
	}
	g.driving.Lock()
	defer g.driving.Unlock()
	if e.cfg.SpinFor > 0 && e.spin(ctx, func() { g.drive(0) }) {
		return nil
	}
	if e.done.park() {
		g.drive(-1)
		e.done.unpark()
	}
	return nil
}

// spin looks for a completion for at most SpinFor, doing step meanwhile.
func (e *Endpoint) spin(ctx context.Context, step func()) bool {
	deadline := time.Now().Add(e.cfg.SpinFor)
	for i := 1; ; i++ {
		if e.done.length.Load() > 0 {
			return true
		}
		if i%16 == 0 && (ctx.Err() != nil || time.Now().After(deadline)) {
			return false
		}
		step()
	}
}
