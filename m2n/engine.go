package m2n

import (
	"context"
	"errors"
	"runtime"
	"sync"
	"sync/atomic"
	"time"

	"github.com/tandem-moe/tandem/m2n/internal/poll"
	"github.com/tandem-moe/tandem/m2n/internal/shm"
)

// engine reads what comes from other processes. Nobody reads for the consumer:
// Poll itself waits in the gate and reads, so that a message costs no hand-over
// between goroutines. While the consumer is elsewhere the watchdog looks, a
// few hundred times a second as long as something comes.
type engine struct {
	poller        *poll.Poller
	doorbells     *shm.Page
	hub           *fabricHub   // nil where there is no fabric
	mu            sync.Mutex   // held by who reads
	stopped       bool         // guarded by driving
	spinner       spinner      // the driver's
	yielded       atomic.Int64 // when the consumer last called Go's scheduler
	load          *hostLoad
	progresses    atomic.Uint64
	watchdogSaw   uint64      // of moves; the watchdog's
	watchdogRests atomic.Bool // the watchdog looks seldom
	wakeWatchdog  func()      // ends its rest
}

// engine returns the endpoint's, which its first connection makes.
func (e *Endpoint) startEngine() (*engine, error) {
	e.mu.Lock()
	defer e.mu.Unlock()
	if g := e.engine.Load(); g != nil {
		return g, nil
	}
	poller, err := poll.New()
	if err != nil {
		return nil, err
	}
	page, err := shm.NewPage()
	if err != nil {
		poller.Close()
		return nil, err
	}
	hub, err := newFabricHub(e.cfg.Fabric, poller)
	if err != nil {
		poller.Close()
		page.Close()
		return nil, err
	}
	eng := &engine{poller: poller, doorbells: page, hub: hub, load: newHostLoad()}
	eng.wakeWatchdog = e.wakeWatchdog
	eng.spinner = newSpinner(e.cfg.SpinFor, eng.load)
	e.engine.Store(eng)
	e.completions.wakeThrough(poller)
	return eng, nil
}

// windUp waits until the links have let go of everything. Nobody needs to poll any
// more, so the reading and writing that this takes is done here.
func (e *Endpoint) waitForTasks() error {
	over := e.keepProgressing()
	err := e.tasks.wait(e.cfg.PeerTimeout)
	over()
	if e.cfg.Fabric != nil {
		err = errors.Join(err, e.closeFabric(e.hub()))
	}
	return err
}

// keepLooking drives, where there is an engine, until the function that it returns
// is called.
func (e *Endpoint) keepProgressing() (over func()) {
	g := e.engine.Load()
	if g == nil {
		return func() {}
	}
	quit := make(chan struct{})
	var looking sync.WaitGroup
	looking.Go(func() {
		tick := time.NewTicker(leastTick)
		defer tick.Stop()
		for {
			g.tryProgress()
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
	g.mu.Lock()
	defer g.mu.Unlock()
	g.stopped = true
	g.poller.Close()
	g.doorbells.Close()
	g.load.close()
}

// look reads what is there, unless somebody does.
func (g *engine) tryProgress() {
	if g.mu.TryLock() {
		defer g.mu.Unlock()
		if !g.stopped {
			g.progress()
		}
	}
}

// drive reads what is there. The caller holds driving.
func (g *engine) progress() {
	g.noteProgress(g.doorbells.Poll() + g.hub.progress() + g.poller.Serve(g.poller.Wait(false)))
}

// park waits until there is something to read, or the bell rings; then it calls
// awake, and reads. The caller holds driving.
func (g *engine) sleep(awake func()) {
	busy := g.doorbells.PrepareSleep()
	events := g.poller.Wait(!g.hub.prepareSleep() && !busy)
	g.doorbells.Awake()
	awake()
	g.noteProgress(g.doorbells.Poll() + g.hub.progress() + g.poller.Serve(events))
}

func (g *engine) noteProgress(moved int) {
	if moved > 0 {
		g.progresses.Add(1)
	}
}

// lookSoon has the watchdog look often, for as long as something comes.
func (g *engine) watchOften() {
	if g.watchdogRests.Swap(false) {
		g.wakeWatchdog()
	}
}

// moved tells whether something came since it was last asked, by the watchdog.
func (g *engine) progressedSince() bool {
	n := g.progresses.Load()
	defer func() { g.watchdogSaw = n }()
	return n != g.watchdogSaw
}

// wait returns nil when there may be a completion to pop.
func (e *Endpoint) waitForCompletion(ctx context.Context) error {
	e.completions.watchContext(ctx)
	if err := e.completions.checkEnded(ctx); err != nil {
		return err
	}
	g := e.engine.Load()
	if g == nil {
		if !e.spin(ctx, e.cfg.SpinFor, runtime.Gosched) {
			e.completions.waitForSignal()
		}
		return nil
	}
	g.mu.Lock()
	defer g.mu.Unlock()
	if g.stopped {
		return nil
	}
	began := now()
	g.yield(began)
	if !e.spin(ctx, g.spinner.limit(), g.spinStep()) && e.completions.park() {
		g.sleep(e.completions.unpark) // what it reads needs no bell
	}
	g.spinner.record(now() - began)
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
func (g *engine) spinStep() func() {
	if !g.doorbells.InUse() && g.hub == nil {
		return g.progress
	}
	const seldom = 64
	i := 0
	return func() {
		if i++; i%seldom == 0 {
			g.progress()
			return
		}
		g.noteProgress(g.doorbells.Poll() + g.hub.progress())
	}
}
