package gather

import (
	"container/heap"
	"fmt"
	"math/rand/v2"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

// world is a closed loop of attention and expert nodes in simulated time. Every
// attention node goes round its micro-batches at each layer, in order, as the
// ping-pong schedule does; every expert node runs what its gather says.
type world struct {
	t         testing.TB
	rng       *rand.Rand
	now       time.Duration
	queue     events
	attention []*simAttention
	experts   []*simExpert
	layers    int
	network   time.Duration
	jitter    float64 // durations vary by ± this share
	trace     func(format string, args ...any)
}

// simAttention is an attention node.
type simAttention struct {
	name  string
	m     int
	rows  int
	time  time.Duration // attention of one micro-batch and layer
	head  time.Duration
	start time.Duration
	steps int // how many to run; then it is idle
	// idle is how long it stays idle after every step in idleEvery.
	idle      time.Duration
	idleEvery int

	step, layer, mb int
	answers         []int // of each micro-batch, how many experts are still to answer
	working, over   bool
	finished        time.Duration
}

type simExpert struct {
	*Gather
	fixed, perRow time.Duration
	timer         time.Duration
	// begun and waits serve the assertion that waiting is bounded.
	idleSince time.Duration
	free      bool
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

// vary returns about d.
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
		require.True(w.t, a.over, "%s stopped in step %d, layer %d, micro-batch %d", a.name, a.step, a.layer, a.mb)
	}
}

// begin starts a node's next step.
func (w *world) begin(a *simAttention) {
	a.step++
	a.layer, a.mb, a.answers = 0, 0, make([]int, a.m)
	for _, e := range w.experts {
		w.act(e)(e.Busy(a.name, a.m, w.now))
	}
	w.work(a)
}

// work does the node's next piece of work where it can.
func (w *world) work(a *simAttention) {
	if a.working || a.over || a.answers == nil || a.answers[a.mb] > 0 {
		return
	}
	a.working = true
	if a.layer == w.layers {
		w.after(w.vary(a.head), func() { a.working = false; w.headDone(a) })
		return
	}
	w.after(w.vary(a.time), func() { a.working = false; w.send(a) })
}

func (w *world) send(a *simAttention) {
	m := Message{Node: a.name, Step: uint64(a.step), MicroBatch: a.mb, Layer: a.layer, Rows: a.rows, Tag: a}
	a.answers[a.mb] = len(w.experts)
	for _, e := range w.experts {
		w.after(w.vary(w.network), func() { w.act(e)(e.Arrive(m, w.now)) })
	}
	w.next(a)
	w.work(a)
}

func (w *world) next(a *simAttention) {
	if a.mb++; a.mb == a.m {
		a.mb = 0
		a.layer++
	}
}

func (w *world) headDone(a *simAttention) {
	if w.next(a); a.layer == w.layers {
		w.work(a)
		return
	}
	a.answers = nil
	pause := time.Duration(0)
	if a.over = a.step == a.steps; a.over {
		a.finished = w.now
	} else if a.idleEvery > 0 && a.step%a.idleEvery == 0 {
		pause = w.vary(a.idle)
	}
	if a.over || pause > 0 {
		for _, e := range w.experts {
			w.act(e)(e.Idle(a.name, w.now))
		}
	}
	if !a.over {
		w.after(pause, func() { w.begin(a) })
	}
}

// act carries out what a gather says.
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

func (w *world) answer(m Message) {
	a := m.Tag.(*simAttention)
	a.answers[m.MicroBatch]--
	w.work(a)
}

// add makes count like nodes, that start within a spread.
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
