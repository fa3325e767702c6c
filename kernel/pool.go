package kernel

import (
	"runtime"
	"sync"
	"sync/atomic"
	"time"
)

// Pool is the threads that share operations' work: one per process, whatever
// the number of devices on it.
//
// A job is a range that a counter deals out in pieces. Its caller takes pieces
// like everybody else, so it never waits for a helper that did not show up, only
// for one that holds a piece. Helpers look for jobs, spin for a short
// while where they find none, and park. A hand-off to a spinning helper costs
// less than a microsecond, to a parked one tens of them: fork and join decide
// the speed of small operations. But a helper that spins on a core which
// another node could use slows both down, so helpers park at once where as many
// nodes are runnable as there are workers, and nobody wakes them then. In a pool of
// one node (NewNodePool) what another node could use is known better: the node's
// pauses are that one's turns.
type Pool struct {
	workers  int
	maySpin  bool
	oneNode  bool
	jobs     [poolSlots]paddedJob
	runs     atomic.Uint64 // operations that have ended
	posted   atomic.Uint32 // rises with each job posted; what spinning helpers watch
	busy     atomic.Int32  // nodes between Enter and Leave
	callers  atomic.Int32  // callers inside Run
	spinning atomic.Int32
	parked   atomic.Int32 // helpers that wait for a token of wake
	wake     chan struct{}
	tokens   tokens // of wake, where the pool has one node
	done     chan struct{}
	closing  sync.Once
	helpers  sync.WaitGroup
}

const (
	// poolSlots is how many jobs can be helped at once; callers beyond do their
	// work themselves.
	poolSlots = 32
	// spinTime is how long an idle helper watches before it parks, and a caller
	// before it sleeps on a helper's last piece. It spans the gaps between the
	// operations of a layer.
	spinTime = 50 * time.Microsecond
	// turnSpinTime is that of a helper in a pool of one node, whose turns' ends it sees:
	// it spans copying and posting a message, which are one thread's work. A helper
	// that parks meanwhile leaves a core asleep for 80 µs, until the next part's is woken.
	turnSpinTime = 200 * time.Microsecond
	// sharesPerThread cuts a job finer than its threads, so that one that starts
	// late or is descheduled leaves its share to the others.
	sharesPerThread = 4
)

// paddedJob keeps each slot on a cache line of its own.
type paddedJob struct {
	atomic.Pointer[job]
	_ [cacheLine - 8]byte
}

// NewPool starts a pool of that many workers, the caller of Run among them:
// workers-1 helpers. 0 means one per processor that Go may use.
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

// NewNodePool is NewPool for a process with one node, whose pauses between Leave
// and Enter are spent waiting for other processes of the machine, as a rule for
// longer than spinTime. In them helpers are parked, so that the others can have
// the cores, and so that the next job has them soon: see tokens.
func NewNodePool(workers int) *Pool {
	p := newPool(workers)
	p.oneNode = true
	p.start()
	return p
}

// Workers is the number of threads that can work at once, the caller included.
func (p *Pool) Workers() int { return p.workers }

// Runs is how often Run has returned: a counter that stands still where nothing is
// computed any more.
func (p *Pool) Runs() uint64 { return p.runs.Load() }

// Enter says that a node has work to do, whether or not inside Run, until it
// calls Leave. While as many nodes are busy as there are workers, helpers stay
// out of their way. A pool of one node has them come at once: they are there, some
// 30 µs later, when the node has read what it has waited for.
func (p *Pool) Enter() {
	if p.busy.Add(1) == 1 && p.oneNode {
		p.wakeUp(p.workers - 1)
	}
}

// Leave ends what Enter began.
func (p *Pool) Leave() { p.busy.Add(-1) }

// Close ends the helpers and waits for them. Run still works, on its caller.
func (p *Pool) Close() {
	p.closing.Do(func() {
		close(p.done)
		p.tokens.close()
	})
	p.helpers.Wait()
}

// Run calls fn for pieces that make up [0, n), each at least grain long but for
// the last, on at most threads threads, and returns when all have returned. fn
// runs on several threads at once.
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

// post offers a job to the helpers and wakes as many as it can use. It returns
// nil where there is no room to offer it.
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

// idleCores is how many workers no runnable node needs.
func (p *Pool) idleCores() int {
	return p.workers - int(max(p.busy.Load(), p.callers.Load()))
}

// wakeUp hands out up to n tokens, one for each parked helper.
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

// unpark takes up to n helpers off the count of the parked, and returns how many.
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

// help is a helper's life.
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

// helpOnce works on the first job that has room for another thread.
func (p *Pool) helpOnce() bool {
	for i := range p.jobs {
		if j := p.jobs[i].Load(); j != nil && j.join() {
			j.work()
			return true
		}
	}
	return false
}

// patience is how long an idle helper watches.
func (p *Pool) patience() time.Duration {
	if p.oneNode {
		return turnSpinTime
	}
	return spinTime
}

// spin watches for a new job; false means that it is time to park.
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
		runtime.Gosched() // others may need this processor
	}
	return false
}

// park sleeps until there may be a job; false means that the pool is closed.
func (p *Pool) park() bool {
	p.parked.Add(1)
	// A job posted before the count rose saw nobody to wake: look again. Where
	// somebody has counted on us meanwhile, their token is on its way.
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
