package kernel

import (
	"runtime"
	"sync"
	"sync/atomic"
	"time"
)

// Pool is a set of worker threads that share the work of operations. A process has
// one pool, and all of its devices use it.
//
// A caller of Run is one worker, and the pool's helpers are the others. Run turns an
// operation into a job: a range of items, from which a shared counter hands out pieces.
// The caller takes pieces as the helpers do, so it never waits for a helper that has not
// started, only for one that still works on a piece.
//
// A helper without a job spins for a short time, watching for a new one, and then parks
// (sleeps). Handing a job to a spinning helper costs less than a microsecond, and waking
// a parked one costs tens of microseconds; small operations are as fast as that
// hand-off. But a helper that spins on a core that another node of the process needs
// slows both nodes down. So helpers park at once, and jobs wake none, while at least as
// many nodes have work as the pool has workers. In a pool of one node (NewNodePool) the
// other nodes are processes of the same machine, and they compute while this node waits
// for them: helpers park whenever the node waits.
type Pool struct {
	workers  int
	maySpin  bool
	oneNode  bool
	jobs     [poolSlots]paddedJob
	runs     atomic.Uint64 // operations that have ended
	posted   atomic.Uint32 // incremented with each job posted; spinning helpers watch it
	busy     atomic.Int32  // nodes between Enter and Leave
	callers  atomic.Int32  // callers inside Run
	spinning atomic.Int32  // helpers that spin
	parked   atomic.Int32  // helpers that sleep and that no token has been handed out for
	wake     chan struct{} // a token for each helper to wake, unless oneNode
	tokens   tokens        // the same where oneNode
	done     chan struct{} // closed by Close
	closing  sync.Once
	helpers  sync.WaitGroup
}

const (
	// poolSlots is how many jobs helpers can find at once. Further callers compute
	// their jobs alone.
	poolSlots = 32
	// spinTime is how long a helper spins before it parks, and how long a caller spins
	// for a helper's last piece before it sleeps. It is longer than the gaps between
	// the operations of a layer.
	spinTime = 50 * time.Microsecond
	// turnSpinTime is how long a helper spins in a pool of one node, unless the node
	// calls Leave before. It is longer than copying and posting a message takes, which
	// one thread does. A helper that parked during the post would leave its core asleep
	// for 80 µs, until an operation of the next layer has woken the helper.
	turnSpinTime = 200 * time.Microsecond
	// sharesPerThread makes a piece a quarter of a thread's share of the items that are
	// left, so that other threads take over what a thread that starts late or is
	// descheduled has not taken.
	sharesPerThread = 4
)

// paddedJob keeps each slot on a cache line of its own.
type paddedJob struct {
	atomic.Pointer[job]
	_ [cacheLine - 8]byte
}

// NewPool starts a pool of that many workers. The caller of Run is one of them, so that
// the pool has workers-1 helpers. 0 means one worker per processor that Go may use.
func NewPool(workers int) *Pool {
	p := newPool(workers)
	p.start()
	return p
}

func newPool(workers int) *Pool {
	procs := runtime.GOMAXPROCS(0)
	if workers <= 0 {
		workers = procs
	}
	return &Pool{
		workers: workers,
		maySpin: workers <= procs,
		wake:    make(chan struct{}, workers),
		done:    make(chan struct{}),
	}
}

func (p *Pool) start() {
	for range p.workers - 1 {
		p.helpers.Go(p.help)
	}
}

// NewNodePool is NewPool for a process with one node. Between Leave and Enter such a node
// waits for other processes of the machine, mostly for longer than spinTime. Helpers
// park during that time: the other processes can use the cores, and a parked helper
// wakes faster than a goroutine does (see tokens).
func NewNodePool(workers int) *Pool {
	p := newPool(workers)
	p.oneNode = true
	p.start()
	return p
}

// Workers is the number of threads that can work at once, the caller included.
func (p *Pool) Workers() int { return p.workers }

// Runs is how often Run has returned. A watchdog compares two values to see whether
// anything has been computed in between.
func (p *Pool) Runs() uint64 { return p.runs.Load() }

// Enter says that a node has work from now on, inside Run or outside, until it calls
// Leave. While at least as many nodes have work as the pool has workers, helpers stay
// parked. A pool of one node wakes its helpers in Enter: they run some 30 µs later, when
// the node has read the message that it had waited for and starts its first operation.
func (p *Pool) Enter() {
	if p.busy.Add(1) == 1 && p.oneNode {
		p.wakeUp(p.workers - 1)
	}
}

// Leave says that a node that has called Enter has no more work.
func (p *Pool) Leave() { p.busy.Add(-1) }

// Close ends the helpers and waits for them. Run still works afterwards, on its caller's
// thread alone.
func (p *Pool) Close() {
	p.closing.Do(func() {
		close(p.done)
		p.tokens.close()
	})
	p.helpers.Wait()
}

// Run calls fn(lo, hi) for pieces that together are [0, n), on at most threads threads,
// and returns when all calls have returned. Each piece but the last has at least grain
// items. fn runs on several threads at once.
func (p *Pool) Run(threads, n, grain int, fn func(lo, hi int)) {
	if n <= 0 {
		return
	}
	defer p.runs.Add(1)
	threads, grain = min(threads, p.workers), max(grain, 1)
	if threads <= 1 || n <= grain {
		fn(0, n)
		return
	}
	p.callers.Add(1)
	j := newJob(threads, n, grain, fn)
	slot := p.post(j)
	j.work()
	if slot != nil {
		slot.Store(nil)
	}
	j.wait()
	p.callers.Add(-1)
}

// post puts a job where helpers find it, and wakes as many helpers as the job can use
// and as idle cores are there for. It returns the job's slot, or nil where no core is
// idle or no slot is free.
func (p *Pool) post(j *job) *paddedJob {
	idle := p.idleCores()
	if idle <= 0 {
		return nil
	}
	for i := range p.jobs {
		slot := &p.jobs[i]
		if slot.Load() == nil && slot.CompareAndSwap(nil, j) {
			p.posted.Add(1)
			p.wakeUp(min(idle, j.helpersWanted()) - int(p.spinning.Load()))
			return slot
		}
	}
	return nil
}

// idleCores is how many of the pool's workers have no node or caller to run.
func (p *Pool) idleCores() int {
	return p.workers - int(max(p.busy.Load(), p.callers.Load()))
}

// wakeUp wakes up to n of the parked helpers, by a token for each.
func (p *Pool) wakeUp(n int) {
	n = p.unpark(n)
	if n > 0 && p.oneNode {
		p.tokens.put(n)
		return
	}
	for range n {
		p.wake <- struct{}{}
	}
}

// unpark subtracts up to n from the number of parked helpers, and returns how much it
// has subtracted. The caller owes that many tokens.
func (p *Pool) unpark(n int) int {
	for {
		parked := p.parked.Load()
		k := min(int(parked), n)
		if k <= 0 {
			return 0
		}
		if p.parked.CompareAndSwap(parked, parked-int32(k)) {
			return k
		}
	}
}

// help is what a helper's goroutine runs until the pool is closed.
func (p *Pool) help() {
	for {
		if p.helpOnce() {
			continue
		}
		if p.spin() {
			continue
		}
		if !p.park() {
			return
		}
	}
}

// helpOnce works on the first job that has room for another thread, and reports whether
// there was one.
func (p *Pool) helpOnce() bool {
	for i := range p.jobs {
		if j := p.jobs[i].Load(); j != nil && j.join() {
			j.work()
			return true
		}
	}
	return false
}

// patience is how long an idle helper spins.
func (p *Pool) patience() time.Duration {
	if p.oneNode {
		return turnSpinTime
	}
	return spinTime
}

// spin watches for a new job. It returns true when one has been posted, and false when
// the helper should park.
func (p *Pool) spin() bool {
	if !p.maySpin {
		return false
	}
	p.spinning.Add(1)
	defer p.spinning.Add(-1)
	seen := p.posted.Load()
	for start := time.Now(); time.Since(start) < p.patience(); {
		if p.idleCores() <= 0 || p.isClosed() || p.oneNode && p.busy.Load() == 0 {
			return false
		}
		for range 64 {
			if p.posted.Load() != seen {
				return true
			}
			pause()
		}
		runtime.Gosched() // another goroutine may wait for this processor
	}
	return false
}

// park sleeps until a token says that there may be a job. It returns false when the pool
// is closed.
func (p *Pool) park() bool {
	p.parked.Add(1)
	// A job that was posted before parked was incremented has woken nobody: look once
	// more. If unpark fails here, another goroutine has subtracted this helper already
	// and sends a token for it, which must be taken.
	if p.hasJob() && p.unpark(1) > 0 {
		return true
	}
	if p.oneNode {
		return p.tokens.take()
	}
	select {
	case <-p.wake:
		return true
	case <-p.done:
		return false
	}
}

func (p *Pool) hasJob() bool {
	for i := range p.jobs {
		if j := p.jobs[i].Load(); j != nil && j.open() {
			return true
		}
	}
	return false
}

func (p *Pool) isClosed() bool {
	select {
	case <-p.done:
		return true
	default:
		return false
	}
}
