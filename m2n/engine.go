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

// engine is an endpoint's progress engine: it reads what other processes send. No
// goroutine reads on behalf of the consumer: Poll itself waits in the poller and reads,
// so that a message costs no hand-over between goroutines. While the consumer does not
// poll, the watchdog reads, a few hundred times a second as long as something comes.
//
// The driver is the goroutine that holds mu: the consumer or the watchdog.
type engine struct {
	poller    *poll.Poller
	doorbells *shm.Page
	hub       *fabricHub // nil where the endpoint has no fabric
	load      *hostLoad

	mu      sync.Mutex
	stopped bool    // guarded by mu
	spinner spinner // guarded by mu

	yielded    atomic.Int64  // when the consumer last called Go's scheduler
	progresses atomic.Uint64 // how often the driver has found something

	// For the watchdog:
	watchdogSaw   uint64      // of progresses; its own
	watchdogRests atomic.Bool // it looks seldom
	wakeWatchdog  func()
}

// startEngine returns the endpoint's engine, which its first connection makes.
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
	g := &engine{poller: poller, doorbells: page, hub: hub, load: newHostLoad(), wakeWatchdog: e.wakeWatchdog}
	g.spinner = newSpinner(e.cfg.SpinFor, g.load)
	e.engine.Store(g)
	e.completions.wakeThrough(poller)
	return g, nil
}

// waitForTasks waits until all links are closed, as a part of Close. The consumer need
// not poll any more, so the reading and writing that this takes is done here.
func (e *Endpoint) waitForTasks() error {
	stop := e.keepProgressing()
	err := e.tasks.wait(e.cfg.PeerTimeout)
	stop()
	if e.cfg.Fabric != nil {
		err = errors.Join(err, e.closeFabric(e.hub()))
	}
	return err
}

// keepProgressing drives the engine, where there is one, until the caller calls stop.
func (e *Endpoint) keepProgressing() (stop func()) {
	g := e.engine.Load()
	if g == nil {
		return func() {}
	}
	quit := make(chan struct{})
	var progressing sync.WaitGroup
	progressing.Go(func() {
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
		progressing.Wait()
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

// tryProgress reads what is there, unless another goroutine drives.
func (g *engine) tryProgress() {
	if g.mu.TryLock() {
		defer g.mu.Unlock()
		if !g.stopped {
			g.progress()
		}
	}
}

// progress reads what is there. The caller holds mu.
func (g *engine) progress() {
	g.noteProgress(g.doorbells.Poll() + g.hub.progress() + g.poller.Serve(g.poller.Wait(false)))
}

// sleep waits until there is something to read, or until the poller is woken; then it
// calls awake, and reads. The caller holds mu.
func (g *engine) sleep(awake func()) {
	busy := g.doorbells.PrepareSleep()
	events := g.poller.Wait(!g.hub.prepareSleep() && !busy)
	g.doorbells.Awake()
	awake()
	g.noteProgress(g.doorbells.Poll() + g.hub.progress() + g.poller.Serve(events))
}

// noteProgress notes how many sources have been read.
func (g *engine) noteProgress(sources int) {
	if sources > 0 {
		g.progresses.Add(1)
	}
}

// watchOften has the watchdog look often, for as long as there is progress.
func (g *engine) watchOften() {
	if g.watchdogRests.Swap(false) {
		g.wakeWatchdog()
	}
}

// progressed reports whether there was progress since the watchdog last asked.
func (g *engine) progressed() bool {
	n := g.progresses.Load()
	defer func() { g.watchdogSaw = n }()
	return n != g.watchdogSaw
}

// waitForCompletion returns nil when there may be a completion to pop, and an error
// where there will be none: ctx is over, or the endpoint closed.
func (e *Endpoint) waitForCompletion(ctx context.Context) error {
	e.completions.watchContext(ctx)
	if err := e.completions.checkEnded(ctx); err != nil {
		return err
	}
	g := e.engine.Load()
	if g == nil { // all peers so far are in this process
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
		g.sleep(e.completions.unpark) // completions of what this goroutine reads need no wake
	}
	g.spinner.record(now() - began)
	return nil
}

// yieldEvery leaves room for a wait of several milliseconds before the ten that Go's
// scheduler allows.
const yieldEvery = 4 * time.Millisecond

// yield calls Go's scheduler once in yieldEvery, before a wait and after a post. A
// consumer that waits in system calls never calls it otherwise. After ten milliseconds
// without a call the scheduler takes the processor from the goroutine in its next system
// call, wait after wait, and the scheduler's monitor thread looks for such goroutines
// every 20 µs, on a core that somebody computes on: a tenth of the machine was lost so
// where nodes share two cores. A call at every wait costs more, since it wakes a thread
// to help.
func (g *engine) yield(now time.Duration) {
	if now-time.Duration(g.yielded.Load()) >= yieldEvery {
		g.yielded.Store(int64(now))
		runtime.Gosched()
	}
}

// spinStep returns what a consumer that spins does again and again. Memory is cheap to
// look at, sockets take a system call: so where the endpoint shares memory or has a
// fabric, the sockets are read now and then only.
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
