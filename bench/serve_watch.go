package bench

import (
	"context"
	"maps"
	"slices"
	"sync"
	"time"

	"github.com/tandem-moe/tandem/kernel"
	"github.com/tandem-moe/tandem/serve"
	"github.com/tandem-moe/tandem/serve/node"
)

// moment is one of a run's at which statistics of nodes are taken.
type moment int

const (
	began    moment = iota // the first step of the run begins
	decoding               // the last sequence has its first token
	ended                  // the first sequence has its last token
	runMoments
)

// observed are the attention nodes of a process, so far as a run needs to hold
// and to watch them.
type observed struct {
	stats func() []node.Stats
	gates []*gate

	mu    sync.Mutex
	watch *watch // of the run, nil before the first one
}

// hold puts a gate before a device.
func (o *observed) hold(dev kernel.Device) kernel.Device {
	g := &gate{Device: dev}
	o.gates = append(o.gates, g)
	return g
}

// observe takes what the attention nodes report, on their goroutines.
func (o *observed) observe(_ string, reports []serve.Report) {
	now := time.Now()
	w := o.current()
	for _, r := range reports {
		w.take(r, now)
	}
}

func (o *observed) current() *watch {
	o.mu.Lock()
	defer o.mu.Unlock()
	return o.watch
}

// arm begins to watch a run of so many sequences, and holds the next step of
// every node.
func (o *observed) arm(sequences int) {
	w := newWatch(sequences, o.stats)
	o.mu.Lock()
	o.watch = w
	o.mu.Unlock()
	for _, g := range o.gates {
		g.arm(w.begin)
	}
}

// wait returns when every node is held.
func (o *observed) wait(ctx context.Context) error {
	for _, g := range o.gates {
		if err := g.wait(ctx); err != nil {
			return err
		}
	}
	return nil
}

func (o *observed) release() {
	for _, g := range o.gates {
		g.release()
	}
}

// watch notes when nodes report tokens, and the nodes' statistics at the run's
// moments. Clients hear of tokens when the scheduler lets them; the nodes' own
// time is what can be compared.
type watch struct {
	stats   func() []node.Stats
	reached [runMoments]chan struct{} // closed once at has it

	mu         sync.Mutex
	start      time.Time
	at         [runMoments][]node.Stats
	cpu        [runMoments]time.Duration // of the process
	prefilling int                       // sequences without a token
	reported   map[uint64]*sequence      // by request
}

// sequence is what was reported of a request.
type sequence struct {
	tokens []int32
	at     []time.Duration
}

func newWatch(sequences int, stats func() []node.Stats) *watch {
	w := &watch{stats: stats, prefilling: sequences, reported: map[uint64]*sequence{}}
	for m := range w.reached {
		w.reached[m] = make(chan struct{})
	}
	return w
}

// begin notes that a step of the run begins: the first one counts.
func (w *watch) begin() {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.mark(began) {
		w.start = time.Now()
	}
}

// mark takes the statistics of a moment, once.
func (w *watch) mark(m moment) bool {
	if w.at[m] != nil {
		return false
	}
	w.at[m], w.cpu[m] = w.stats(), cpuTime()
	close(w.reached[m])
	return true
}

// take notes a report. Requests of one token are plugs.
func (w *watch) take(r serve.Report, now time.Time) {
	e := r.Event
	if !e.HasToken || e.Index == 0 && e.Finish != "" {
		return
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	s := w.reported[r.ID]
	if s == nil {
		s = &sequence{}
		w.reported[r.ID] = s
		if w.prefilling--; w.prefilling == 0 {
			w.mark(decoding)
		}
	}
	s.tokens, s.at = append(s.tokens, e.Token), append(s.at, now.Sub(w.start))
	if e.Finish != "" {
		w.mark(ended)
	}
}

// trace is the run's. Requests are numbered in the order in which they were
// submitted.
func (w *watch) trace() (t trace) {
	w.mu.Lock()
	defer w.mu.Unlock()
	for _, id := range slices.Sorted(maps.Keys(w.reported)) {
		s := w.reported[id]
		t.tokens, t.at = append(t.tokens, s.tokens), append(t.at, s.at)
	}
	return t
}

// statistics are those of all nodes before a run, at its moments, and after it.
type statistics struct {
	before, after []node.Stats
	at            [runMoments][]node.Stats
	cpu           [runMoments]time.Duration // of all processes
}

// run joins them with a trace. Of the steps, one of each attention node held it.
func (s *statistics) run(t trace, attention int) *engineRun {
	r := &engineRun{
		trace:  t,
		prompt: newPhase(s.at[began], s.at[decoding]), decode: newPhase(s.at[decoding], s.at[ended]), whole: newPhase(s.at[began], s.after),
	}
	r.prompt.cpu, r.decode.cpu = (s.cpu[decoding] - s.cpu[began]).Seconds(), (s.cpu[ended] - s.cpu[decoding]).Seconds()
	for i := range s.after {
		r.steps += int(s.after[i].Steps - s.before[i].Steps)
	}
	r.steps -= attention
	return r
}
