// Package frontend keeps the requests of a cluster: it admits them, chooses an
// attention node for each, and keeps their output so far. The requests of a node that
// stands still go on at another one (Move); those of a node that is lost end (detach).
// It may not know how a node computes: it imports neither kernel nor m2n.
package frontend

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"sync"
	"time"

	"github.com/tandem-moe/tandem/serve"
	"github.com/tandem-moe/tandem/serve/batch"
)

// Config is what a front end needs to know.
type Config struct {
	// Vocabulary is the number of tokens that the model knows; MaxModelLen bounds a
	// request's prompt plus output, in tokens. Every worker must have the same.
	Vocabulary  int
	MaxModelLen int
	// MaxBatchedTokens is the rows of a step that every worker must offer; 0 allows
	// any.
	MaxBatchedTokens int
	// MaxWaiting bounds the requests beyond the number that the workers can run at
	// once.
	MaxWaiting int
	// Missing says in words what the cluster lacks to serve; "" means nothing. It
	// may not call the front end.
	Missing func() string
	// Holds, if set, says whether a worker holds its requests back because it cannot
	// reach other nodes that it needs. Such a worker gets no new request. Holds may
	// not call the front end.
	Holds func(node string) bool
}

// FrontEnd is a [serve.Engine] over attention nodes: it admits requests, gives each
// to the node that is predicted to finish it first, and keeps all that is needed to
// resume it on another node, see Move.
type FrontEnd struct {
	cfg Config

	mu      sync.Mutex
	firstID uint64
	nextID  uint64
	workers []*attached // by node name
	streams map[uint64]*admitted
}

// attached is a worker with the requests given to it.
type attached struct {
	serve.Offer
	worker   serve.Worker
	prefixes *prefixes
	running  map[uint64]*admitted
	busy     time.Time // since when running is not empty; meaningless while it is empty
	draining bool      // the worker gets no more requests
}

// admitted is a request with its stream, on a worker.
type admitted struct {
	*stream
	progress
	keys   promptKeys
	worker *attached
	moved  bool // the request was moved here from another worker
}

// New returns a front end without workers. Its request ids start at the time in
// microseconds, so that they differ from those of an earlier front end process.
func New(cfg Config) *FrontEnd {
	first := uint64(time.Now().UnixMicro())
	return &FrontEnd{cfg: cfg, firstID: first, nextID: first, streams: map[uint64]*admitted{}}
}

// Attach adds a worker. detach removes it: its requests end with the reason.
func (f *FrontEnd) Attach(o serve.Offer, w serve.Worker) (detach func(reason error), err error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if err := f.cfg.check(o); err != nil {
		return nil, err
	}
	if slices.ContainsFunc(f.workers, func(w *attached) bool { return w.Node == o.Node }) {
		return nil, fmt.Errorf("node %s works for the front end already", o.Node)
	}
	a := &attached{Offer: o, worker: w, prefixes: newPrefixes(o), running: map[uint64]*admitted{}}
	f.workers = append(f.workers, a)
	slices.SortFunc(f.workers, func(a, b *attached) int { return cmp.Compare(a.Node, b.Node) })
	return func(reason error) { f.detach(a, reason) }, nil
}

func (f *FrontEnd) detach(a *attached, reason error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.workers = slices.DeleteFunc(f.workers, func(w *attached) bool { return w == a })
	for id, r := range a.running {
		delete(f.streams, id)
		r.deliver(serve.Report{ID: id, Err: reason})
	}
	clear(a.running)
}

// Drain makes a worker get no more requests, and returns how many it still has.
func (f *FrontEnd) Drain(node string) (left int) {
	f.mu.Lock()
	defer f.mu.Unlock()
	for _, w := range f.workers {
		if w.Node == node {
			w.draining = true
			left += len(w.running)
		}
	}
	return left
}

// open returns the workers that do not drain.
func (f *FrontEnd) open() []*attached {
	return slices.DeleteFunc(slices.Clone(f.workers), func(w *attached) bool { return w.draining })
}

// able returns the workers that can take a request now.
func (f *FrontEnd) able(r serve.Request) []*attached {
	return slices.DeleteFunc(f.open(), func(w *attached) bool {
		return len(r.Prompt)+r.MaxTokens > w.CacheTokens || f.cfg.Holds != nil && f.cfg.Holds(w.Node)
	})
}

// Limits returns what the front end accepts now.
func (f *FrontEnd) Limits() serve.Limits {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.limits()
}

func (f *FrontEnd) limits() serve.Limits {
	l := serve.Limits{Vocabulary: f.cfg.Vocabulary, MaxModelLen: f.cfg.MaxModelLen}
	for _, w := range f.open() {
		l.CacheTokens = max(l.CacheTokens, w.CacheTokens)
	}
	return l
}

// Counts says how many requests the front end has.
type Counts struct {
	// Requests is the number of requests that have not ended; Capacity is how many
	// requests the workers can run at once. A draining worker counts only for the
	// requests that it still has.
	Requests, Capacity int
}

// Counts returns the current numbers.
func (f *FrontEnd) Counts() Counts {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.counts()
}

func (f *FrontEnd) counts() Counts {
	c := Counts{Requests: len(f.streams)}
	for _, w := range f.workers {
		n := w.MaxNumSeqs
		if w.draining {
			n = min(n, len(w.running))
		}
		c.Capacity += n
	}
	return c
}

// Submit validates a request and gives it to a worker. It does all work that grows
// with the prompt before it takes the lock to admit the request: while the lock is
// held, no token of any request is delivered.
func (f *FrontEnd) Submit(_ context.Context, r serve.Request) (serve.Stream, error) {
	limits, pageTokens, err := f.opening()
	if err != nil {
		return nil, err
	}
	if err := r.Validate(limits); err != nil {
		return nil, err
	}
	if len(r.Output) > 0 {
		r.PromptLogprobs = -1 // the client got them before the output
	}
	a := &admitted{keys: keysOf(r.Prompt, pageTokens), progress: progress{output: slices.Clone(r.Output)}}
	a.stream = newStream(r, func() { f.cancel(a) })
	if err := f.admit(a, limits); err != nil {
		return nil, err
	}
	return a.stream, nil
}

// opening returns what the front end accepts, and its workers' tokens per page.
// Error: *serve.UnavailableError.
func (f *FrontEnd) opening() (l serve.Limits, pageTokens []int, err error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	for _, w := range f.workers {
		pageTokens = append(pageTokens, w.PageTokens)
	}
	return f.limits(), pageTokens, f.available()
}

// available says why no worker would serve a request. To admit one, the caller keeps
// the lock until a worker has the request: else the worker could be drained and let
// go in between.
func (f *FrontEnd) available() error {
	if missing := f.cfg.Missing(); missing != "" {
		return &serve.UnavailableError{Reason: "the cluster cannot serve: " + missing}
	}
	if len(f.open()) == 0 {
		return &serve.UnavailableError{Reason: "the cluster cannot serve: no attention node has offered to work"}
	}
	return nil
}

// admit gives a worker a request that was validated by the limits within.
func (f *FrontEnd) admit(a *admitted, within serve.Limits) error {
	f.mu.Lock()
	defer f.mu.Unlock()
	if err := f.available(); err != nil {
		return err
	}
	if now := f.limits(); now != within { // workers have joined or left meanwhile
		if err := a.request.Validate(now); err != nil {
			return err
		}
	}
	c := f.counts()
	if waiting := c.Requests - c.Capacity; waiting >= f.cfg.MaxWaiting {
		return &serve.BusyError{Waiting: waiting, Limit: f.cfg.MaxWaiting}
	}
	able := f.able(a.request)
	if len(able) == 0 {
		return &serve.UnavailableError{Reason: "the cluster cannot serve: no attention node with room for the request reaches all expert nodes"}
	}
	f.give(a, f.place(a, able))
	return nil
}

// give submits a request to a worker under a new id.
func (f *FrontEnd) give(a *admitted, w *attached) {
	a.request.ID, a.worker = f.nextID, w
	f.nextID++
	if len(w.running) == 0 {
		w.busy = time.Now()
	}
	f.streams[a.request.ID], w.running[a.request.ID] = a, a
	w.prefixes.add(a.keys)
	w.worker.Submit(a.request)
}

// place picks, of the open workers, the one that is predicted to finish the request
// first.
func (f *FrontEnd) place(a *admitted, open []*attached) *attached {
	tokens := len(a.request.Prompt) + len(a.request.Output)
	loads := make([]batch.NodeLoad, len(open))
	for i, w := range open {
		loads[i] = w.load(a)
	}
	return open[batch.Place(loads, tokens)]
}

// load describes the worker's work for the prediction of the request's time.
func (w *attached) load(a *admitted) batch.NodeLoad {
	r := a.request
	l := batch.NodeLoad{
		Down:      len(r.Prompt)+r.MaxTokens > w.CacheTokens,
		Sequences: len(w.running), FreeTokens: w.CacheTokens, StepTokens: w.MaxBatchedTokens,
	}
	if r.PromptLogprobs < 0 {
		l.Cached = w.prefixes.match(a.keys, len(r.Prompt))
	}
	for _, other := range w.running {
		tokens := len(other.request.Prompt) + len(other.output)
		l.FreeTokens -= tokens
		if len(other.output) == 0 {
			l.Queued += tokens
		}
	}
	return l
}

// cancel ends a request if it still runs.
func (f *FrontEnd) cancel(a *admitted) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.streams[a.request.ID] != a {
		return
	}
	f.forget(a)
	a.deliver(serve.Report{Err: context.Canceled})
	a.worker.worker.Cancel(a.request.ID)
}

func (f *FrontEnd) forget(a *admitted) {
	delete(f.streams, a.request.ID)
	delete(a.worker.running, a.request.ID)
}

// Deliver takes a worker's reports. It ignores reports on requests that have ended.
// A report that no correct worker sends is a *ReportError: the caller must detach
// the worker.
func (f *FrontEnd) Deliver(node string, reports []serve.Report) error {
	f.mu.Lock()
	defer f.mu.Unlock()
	for _, r := range reports {
		if err := f.take(node, r); err != nil {
			return &ReportError{Node: node, Request: r.ID, Reason: err.Error()}
		}
	}
	return nil
}

// take takes one report. The id of a request that was cancelled, or moved to another
// worker, is no longer in streams: reports that were on their way are dropped.
func (f *FrontEnd) take(node string, r serve.Report) error {
	a := f.streams[r.ID]
	switch {
	case a == nil && (r.ID < f.firstID || r.ID >= f.nextID):
		return errors.New("there was no such request")
	case a == nil:
		return nil
	case a.worker.Node != node:
		return fmt.Errorf("it is node %s that has it", a.worker.Node)
	}
	if r.Err == nil {
		whole, complete, err := a.add(a.request, r.Event, r.More, f.cfg.Vocabulary)
		if err != nil || !complete {
			return err
		}
		r.Event = whole
	}
	if r.Last() {
		f.forget(a)
	}
	a.deliver(r)
	return nil
}

// Busy returns the workers that have requests, and since when they have some.
func (f *FrontEnd) Busy() map[string]time.Time {
	f.mu.Lock()
	defer f.mu.Unlock()
	since := map[string]time.Time{}
	for _, w := range f.workers {
		if len(w.running) > 0 {
			since[w.Node] = w.busy
		}
	}
	return since
}

// Move gives a worker's requests to other workers, which continue where it stopped.
// A request that no other worker can take, or that was moved before, ends with the
// reason. The worker gets no more requests.
func (f *FrontEnd) Move(node string, reason error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	for _, w := range f.workers {
		if w.Node != node {
			continue
		}
		w.draining = true
		for _, id := range slices.Sorted(maps.Keys(w.running)) {
			f.move(w.running[id], reason)
		}
	}
}

// move gives one request to another worker, or ends it.
func (f *FrontEnd) move(a *admitted, reason error) {
	f.forget(a)
	a.worker.worker.Cancel(a.request.ID)
	a.request.Output, a.prompt = slices.Clone(a.output), nil
	if a.started {
		a.request.PromptLogprobs = -1 // the first event had them
	}
	able := f.able(a.request)
	if a.moved || len(able) == 0 {
		a.deliver(serve.Report{Err: reason})
		return
	}
	a.moved = true
	f.give(a, f.place(a, able))
}
