package gather

import (
	"container/heap"
	"fmt"
	"math/rand/v2"
	"slices"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

// world is a closed loop of attention and expert nodes in simulated time. At each
// layer, every attention node works on its micro-batches in turn, as the ping-pong
// schedule does; every expert node runs what its gather says.
type world struct {
	t         testing.TB
	rng       *rand.Rand
	now       time.Duration
	queue     events
	attention []*simAttention
	experts   []*simExpert
	layers    int
	network   time.Duration
	jitter    float64 // durations vary by ± this share of themselves
	trace     func(format string, args ...any)
}

// simAttention is a simulated attention node with m micro-batches.
type simAttention struct {
	name  string
	m     int
	rows  int
	time  time.Duration // attention of one micro-batch and layer
	head  time.Duration
	start time.Duration
	steps int // how many steps the node runs before it is idle for good
	// idle is how long the node stays idle after each idleEvery-th step.
	idle      time.Duration
	idleEvery int

	// free lets each micro-batch begin its next step as soon as it has ended one;
	// else all micro-batches begin a step together.
	free bool

	step          int // the last step begun
	turn          int
	set           uint64
	batches       []simBatch
	ready         []int // micro-batches with attention or a head to compute, in the order they became ready
	working, over bool
	idling        bool
	finished      time.Duration
}

// simBatch is a micro-batch in a step.
type simBatch struct {
	step, layer int
	answers     int // how many expert nodes are still to answer
}

type simExpert struct {
	*Gather
	fixed, perRow time.Duration
}

type event struct {
	at  time.Duration
	seq int
	do  func()
}

type events struct {
	list []event
	seq  int
}

func (e *events) Len() int { return len(e.list) }
func (e *events) Less(i, j int) bool {
	a, b := e.list[i], e.list[j]
	return a.at < b.at || a.at == b.at && a.seq < b.seq
}
func (e *events) Swap(i, j int) { e.list[i], e.list[j] = e.list[j], e.list[i] }
func (e *events) Push(x any)    { e.list = append(e.list, x.(event)) }
func (e *events) Pop() any {
	last := e.list[len(e.list)-1]
	e.list = e.list[:len(e.list)-1]
	return last
}

func (w *world) after(d time.Duration, do func()) {
	w.queue.seq++
	heap.Push(&w.queue, event{w.now + d, w.queue.seq, do})
}

// vary returns d changed at random by up to the world's jitter.
func (w *world) vary(d time.Duration) time.Duration {
	return time.Duration(float64(d) * (1 + w.jitter*(2*w.rng.Float64()-1)))
}

func (w *world) run() {
	for i := range w.attention {
		a := w.attention[i]
		for _, e := range w.experts {
			require.NoError(w.t, e.Joined(a.name))
		}
		w.after(a.start, func() { w.begin(a) })
	}
	for w.queue.Len() > 0 {
		e := heap.Pop(&w.queue).(event)
		w.now = e.at
		e.do()
	}
	for _, a := range w.attention {
		require.True(w.t, a.over, "%s stopped in step %d: %+v", a.name, a.step, a.batches)
	}
}

// begin starts the next step of all of a node's micro-batches, or, where they run
// freely, a next step for each.
func (w *world) begin(a *simAttention) {
	a.idling = false
	a.batches = make([]simBatch, a.m)
	a.ready = nil
	for i := range a.batches {
		a.beginBatch(i)
	}
	w.tell(a, 1<<a.m-1)
	w.work(a)
}

func (a *simAttention) beginBatch(i int) {
	if a.free || i == 0 {
		a.step++
	}
	a.batches[i] = simBatch{step: a.step}
	a.ready = append(a.ready, i)
}

func (w *world) tell(a *simAttention, set uint64) {
	a.set = set
	for _, e := range w.experts {
		w.act(e)(e.Busy(a.name, set, w.now))
	}
}

// work starts the node's next piece of work, if any. A strict node takes its
// micro-batches in turn, whichever is ready first; a free node takes the one that
// became ready first.
func (w *world) work(a *simAttention) {
	if a.working || len(a.ready) == 0 {
		return
	}
	at := 0
	if !a.free {
		if at = slices.Index(a.ready, a.turn); at < 0 {
			return
		}
		a.turn = (a.turn + 1) % a.m
	}
	i := a.ready[at]
	a.ready = slices.Delete(a.ready, at, at+1)
	a.working = true
	d, then := a.time, w.send
	if a.batches[i].layer == w.layers {
		d, then = a.head, w.headDone
	}
	w.after(w.vary(d), func() {
		a.working = false
		then(a, i)
		w.work(a)
	})
}

func (w *world) send(a *simAttention, i int) {
	b := &a.batches[i]
	m := Message{Node: a.name, Step: uint64(b.step), MicroBatch: i, Layer: b.layer, Rows: a.rows, Tag: a}
	b.answers = len(w.experts)
	for _, e := range w.experts {
		w.after(w.vary(w.network), func() { w.act(e)(e.Arrive(m, w.now)) })
	}
}

func (w *world) answer(m Message) {
	a := m.Tag.(*simAttention)
	b := &a.batches[m.MicroBatch]
	if b.answers--; b.answers == 0 {
		b.layer++
		a.ready = append(a.ready, m.MicroBatch)
		w.work(a)
	}
}

// headDone ends a micro-batch's step.
func (w *world) headDone(a *simAttention, i int) {
	a.over = a.step >= a.steps
	pause := time.Duration(0)
	if a.idleEvery > 0 && a.step%a.idleEvery == 0 {
		a.idling = true
		pause = w.vary(a.idle)
	}
	switch last := a.set == 1<<i; {
	case a.free && !a.over && !a.idling:
		a.beginBatch(i)
	case a.free && !last: // over or pausing: let the others end
		w.tell(a, a.set&^(1<<i))
	case !a.free && i < a.m-1:
	case a.over:
		a.finished = w.now
		w.tell(a, 0)
	case pause > 0:
		w.tell(a, 0)
		w.after(pause, func() { w.begin(a) })
	default:
		w.begin(a)
	}
}

// act returns a function that carries out the actions of e's gather.
func (w *world) act(e *simExpert) func(Actions, error) {
	return func(out Actions, err error) {
		require.NoError(w.t, err)
		require.Empty(w.t, out.Drop)
		if out.Timer > 0 {
			require.GreaterOrEqual(w.t, out.Timer, w.now)
			w.after(out.Timer-w.now, func() { w.act(e)(e.Timer(w.now), nil) })
		}
		if out.Run != nil {
			w.start(e, out.Run)
		}
	}
}

func (w *world) start(e *simExpert, run *Run) {
	sum := 0
	for _, m := range run.Messages {
		sum += m.Rows
	}
	if w.trace != nil {
		w.trace("%v %s %d %v", w.now, run.Reason, run.Layer, run.Messages)
	}
	w.after(w.vary(e.fixed+time.Duration(sum)*e.perRow), func() {
		out := e.Done(w.now)
		for _, m := range run.Messages {
			w.after(w.vary(w.network), func() { w.answer(m) })
		}
		w.act(e)(out, nil)
	})
}

// add adds count copies of an attention node, whose start times differ by at most
// spread.
func (w *world) add(count int, like simAttention, spread time.Duration) {
	for range count {
		a := like
		a.name = fmt.Sprintf("A%d", len(w.attention))
		a.start = like.start + time.Duration(w.rng.Int64N(int64(spread)+1))
		w.attention = append(w.attention, &a)
	}
}

func (w *world) addExperts(count int, cfg Config, fixed, perRow time.Duration) {
	for l := range w.layers {
		cfg.Layers = append(cfg.Layers, l)
	}
	for range count {
		g, err := New(cfg)
		require.NoError(w.t, err)
		w.experts = append(w.experts, &simExpert{Gather: g, fixed: fixed, perRow: perRow})
	}
}
