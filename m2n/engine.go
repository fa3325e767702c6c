package m2n

import (
	"context"
	"errors"
	"runtime"
	"sync"
	"sync/atomic"
	"time"
)

// engine reads what comes from other processes. Nobody reads for the consumer:
// Poll itself waits in the gate and reads, so that a message costs no hand-over
// between goroutines. While the consumer is elsewhere the watchdog looks, a
// few hundred times a second as long as something comes.
type engine struct {
	gate    *gate
	board   *shmBoard
	hub     *fabricHub   // nil where there is no fabric
	driving sync.Mutex   // held by who reads
	stopped bool         // guarded by driving
	spinner spinner      // the driver's
	yielded atomic.Int64 // when the consumer last called Go's scheduler
	load    *hostLoad
	moves   atomic.Uint64
	known   uint64      // of moves; the watchdog's
	resting atomic.Bool // the watchdog looks seldom
	rouse   func()      // ends its rest
}

// source is something that the gate watches.
type source interface {
	// ready is called by the driver when there may be something to read.
	ready()
}

// writer is a source that may wait until it can write.
type writer interface {
	// writable is called by the driver when it can.
	writable()
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
	board, err := newBoard()
	if err != nil {
		gate.close()
		return nil, err
	}
	hub, err := newFabricHub(e.cfg.Fabric, gate)
	if err != nil {
		gate.close()
		board.close()
		return nil, err
	}
	eng := &engine{gate: gate, board: board, hub: hub, load: newHostLoad()}
	eng.rouse = e.watch
	eng.spinner = newSpinner(e.cfg.SpinFor, eng.load)
	e.eng.Store(eng)
	e.done.ringAt(gate)
	return eng, nil
}

// windUp waits until the links have let go of everything. Nobody needs to poll any
// more, so the reading and writing that this takes is done here.
func (e *Endpoint) windUp() error {
	over := e.keepLooking()
	err := e.running.wait(e.cfg.PeerTimeout)
	over()
	if e.cfg.Fabric != nil {
		err = errors.Join(err, e.closeFabric(e.hub()))
	}
	return err
}

// keepLooking drives, where there is an engine, until the function that it returns
// is called.
func (e *Endpoint) keepLooking() (over func()) {
	g := e.eng.Load()
	if g == nil {
		return func() {}
	}
	quit := make(chan struct{})
	var looking sync.WaitGroup
	looking.Go(func() {
		tick := time.NewTicker(leastTick)
		defer tick.Stop()
		for {
			g.look()
			select {
			case <-tick.C:
			case <-quit:
				return
			}
		}
	})
	return func() {
		close(quit)
		looking.Wait()
	}
}

// stop is called when nothing is left to read or write.
func (g *engine) stop() {
	g.driving.Lock()
	defer g.driving.Unlock()
	g.stopped = true
	g.gate.close()
	g.board.close()
	g.load.close()
}

// look reads what is there, unless somebody does.
func (g *engine) look() {
	if g.driving.TryLock() {
		defer g.driving.Unlock()
		if !g.stopped {
			g.drive()
		}
	}
}

// drive reads what is there. The caller holds driving.
func (g *engine) drive() {
	g.note(g.board.sweep() + g.hub.sweep() + g.gate.serve(g.gate.wait(true)))
}

// park waits until there is something to read, or the bell rings; then it calls
// awake, and reads. The caller holds driving.
func (g *engine) park(awake func()) {
	busy := g.board.sleep()
	events := g.gate.wait(g.hub.sleep() || busy)
	g.board.wakeUp()
	awake()
	g.note(g.board.sweep() + g.hub.sweep() + g.gate.serve(events))
}

func (g *engine) note(moved int) {
	if moved > 0 {
		g.moves.Add(1)
	}
}

// lookSoon has the watchdog look often, for as long as something comes.
func (g *engine) lookSoon() {
	if g.resting.Swap(false) {
		g.rouse()
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
		if !e.spin(ctx, e.cfg.SpinFor, runtime.Gosched) {
			e.done.await()
		}
		return nil
	}
	g.driving.Lock()
	defer g.driving.Unlock()
	if g.stopped {
		return nil
	}
	began := now()
	g.yield(began)
	if !e.spin(ctx, g.spinner.limit(), g.glance()) && e.done.park() {
		g.park(e.done.unpark) // what it reads needs no bell
	}
	g.spinner.took(now() - began)
	return nil
}

// yieldEvery leaves room for a wait of several milliseconds.
const yieldEvery = 4 * time.Millisecond

// yield calls Go's scheduler now and then, before a wait and after a post, for a
// consumer that never does, as it waits in system calls. After ten milliseconds
// without, the scheduler takes the processor away from whoever is in a system call,
// wait by wait, and its monitor looks for such loops every 20 µs, on a core that
// somebody computes on: a tenth of the machine was lost where nodes share two
// cores, and as much where senders do. To call it every time costs more: it wakes a
// thread to help.
func (g *engine) yield(now time.Duration) {
	if now-time.Duration(g.yielded.Load()) >= yieldEvery {
		g.yielded.Store(int64(now))
		runtime.Gosched()
	}
}

// glance returns what looks for something to read, again and again: at the rings
// each time, where there are some, and at the sockets now and then.
func (g *engine) glance() func() {
	if !g.board.used() && g.hub == nil {
		return g.drive
	}
	const seldom = 64
	i := 0
	return func() {
		if i++; i%seldom == 0 {
			g.drive()
			return
		}
		g.note(g.board.sweep() + g.hub.sweep())
	}
}
