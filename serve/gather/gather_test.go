package gather

import (
	"flag"
	"fmt"
	"math/rand/v2"
	"slices"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"pgregory.net/rapid"
)

var seedCount = flag.Int("seeds", 24, "how many random clusters the simulation tests try")

// seeds is how many clusters a test tries: the flag divided by share, and a third
// of that under -short.
func seeds(share int) uint64 {
	n := *seedCount / share
	if testing.Short() {
		n = (n + 2) / 3
	}
	return uint64(n)
}

// cluster draws a cluster of equally loaded attention nodes that begin out of
// phase.
func cluster(t *testing.T, seed uint64, cfg Config) *world {
	rng := rand.New(rand.NewPCG(seed, 1))
	w := &world{t: t, rng: rng, layers: 4 + rng.IntN(40), jitter: []float64{0, 0.1, 0.3}[rng.IntN(3)]}
	w.network = micros(10 + rng.IntN(500))
	attention, run := micros(100+rng.IntN(2000)), micros(50+rng.IntN(2000))
	node := simAttention{
		m: 1 + rng.IntN(4), rows: 8, time: attention, head: 2 * attention,
		free: seed%2 == 1, steps: 10 + 400/w.layers,
	}
	if node.free {
		node.steps *= node.m // a free node counts the steps of each micro-batch
	}
	w.add(1+rng.IntN(8), node, time.Duration(w.layers)*(attention+run))
	w.addExperts(1+rng.IntN(3), cfg, run*3/4, run/4/8)
	return w
}

func micros(n int) time.Duration { return time.Duration(n) * time.Microsecond }

func (w *world) String() string {
	a, e := w.attention[0], w.experts[0]
	return fmt.Sprintf("%d×%d nodes, m %d (free %v), %d layers, attention %v, experts %v, network %v ± %.0f %%",
		len(w.attention), len(w.experts), a.m, a.free, w.layers, a.time, e.fixed+8*e.perRow, w.network, 100*w.jitter)
}

// TestAggregation: equally loaded nodes come into phase and stay in phase, so that
// a run joins nearly one message of each node, and all nodes get equally far. A
// single node never waits. world.run fails the test where a node does not end.
func TestAggregation(t *testing.T) {
	for seed := range seeds(1) {
		w := cluster(t, seed, Config{})
		w.run()
		for _, e := range w.experts {
			c := e.Counters()
			require.GreaterOrEqual(t, c.Aggregation(), 0.8*float64(len(w.attention)), "seed %d: %v: %+v", seed, w, c)
			if len(w.attention) == 1 {
				require.Zero(t, c.Held, "seed %d: %v", seed, w)
			}
		}
		var took []time.Duration
		for _, a := range w.attention {
			took = append(took, a.finished-a.start)
		}
		require.LessOrEqual(t, float64(slices.Max(took)), 1.25*float64(slices.Min(took)), "seed %d: %v: %v", seed, w,
			took)
	}
}

// TestLingerBoundsWaiting: from the first time that the device is free for a
// message, the gather holds the message back for at most its linger. After that
// the message waits only for the current run and for the runs of messages whose
// linger ended earlier.
func TestLingerBoundsWaiting(t *testing.T) {
	const linger = 3 * time.Millisecond
	for seed := range seeds(1) {
		w := cluster(t, seed, Config{Linger: linger})
		w.run()
		e, a := w.experts[0], w.attention[0]
		longest := time.Duration(1.3 * float64(e.fixed+time.Duration(len(w.attention)*a.m*a.rows)*e.perRow))
		bound := linger + time.Duration(len(w.attention)*a.m)*longest
		for _, e := range w.experts {
			require.LessOrEqual(t, e.Counters().MaxHeld, bound, "seed %d: %v", seed, w)
		}
	}
}

// TestIdleDeviceNeverWaitsBeyondLinger: the device never idles while a message
// waits whose linger is over. TestLingerBoundsWaiting cannot see that.
func TestIdleDeviceNeverWaitsBeyondLinger(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		d := newDriver(t)
		t.Repeat(map[string]func(*rapid.T){
			"arrive": d.arrive, "busy": d.busy, "done": d.done, "lost": d.lost, "time": d.pass, "": d.check,
		})
	})
}

// TestSlowNodeDoesNotHoldUpTheOthers: nodes that decode beside a node in a long
// prefill are nearly as fast as without any waiting.
func TestSlowNodeDoesNotHoldUpTheOthers(t *testing.T) {
	for seed := range seeds(4) {
		with, without := prefill(t, seed, Config{}), prefill(t, seed, Config{Linger: -1})
		require.LessOrEqual(t, float64(with), 1.25*float64(without), "seed %d", seed)
	}
}

// prefill returns when the last of three decoding nodes has ended, beside a node
// that takes 30 times longer.
func prefill(t *testing.T, seed uint64, cfg Config) time.Duration {
	w := &world{t: t, rng: rand.New(rand.NewPCG(seed, 1)), layers: 24, jitter: 0.1, network: micros(50)}
	w.add(3, simAttention{m: 2, rows: 8, time: micros(500), head: micros(500), steps: 40}, micros(10000))
	w.add(1, simAttention{m: 2, rows: 300, time: micros(15000), head: micros(500), steps: 4}, 0)
	w.addExperts(2, cfg, micros(200), micros(1))
	w.run()
	var last time.Duration
	for _, a := range w.attention[:3] {
		last = max(last, a.finished)
	}
	return last
}

// TestIdleNodesAreNotAwaited: nodes that come and go do not slow down the others,
// and aggregation follows the number of busy nodes.
func TestIdleNodesAreNotAwaited(t *testing.T) {
	for seed := range seeds(4) {
		w := &world{t: t, rng: rand.New(rand.NewPCG(seed, 1)), layers: 16, jitter: 0.1, network: micros(50)}
		like := simAttention{m: 2, rows: 8, time: micros(500), head: micros(500), steps: 60, free: seed%2 == 1}
		w.add(2, like, micros(20000))
		like.idle, like.idleEvery = micros(100000), 5
		w.add(2, like, micros(20000))
		w.addExperts(2, Config{}, micros(200), micros(1))
		w.run()
		c := w.experts[0].Counters()
		require.Less(t, c.Linger*20, c.Runs, "seed %d: %+v", seed, c)
		require.Greater(t, c.Aggregation(), 1.6, "seed %d: %+v", seed, c)
	}
}

// TestUnequalMicroBatches: nodes with different numbers of micro-batches come into
// phase too. A run joins messages of both nodes as long as both have one.
func TestUnequalMicroBatches(t *testing.T) {
	for seed := range seeds(4) {
		w := &world{t: t, rng: rand.New(rand.NewPCG(seed, 1)), layers: 16, jitter: 0.1, network: micros(50)}
		w.add(1, simAttention{m: 1, rows: 8, time: micros(1000), head: micros(500), steps: 60}, micros(20000))
		w.add(1, simAttention{m: 2, rows: 8, time: micros(500), head: micros(500), steps: 60}, micros(20000))
		w.addExperts(1, Config{}, micros(200), micros(1))
		w.run()
		c := w.experts[0].Counters()
		require.GreaterOrEqual(t, c.Aggregation(), 1.4, "seed %d: %+v", seed, c) // 3 messages, 2 runs
		require.Less(t, c.Linger*50, c.Runs, "seed %d: %+v", seed, c)
	}
}

// TestRear checks afterLargestGap against the slow, obvious version: try every
// taken place as the rear and keep the one from which all taken places span the
// shortest arc.
func TestRear(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		taken := rapid.SliceOfN(rapid.Bool(), 1, 12).Draw(t, "taken")
		best, shortest := 0, len(taken)+1
		for i := range taken {
			arc := 0 // distance from i to the taken place furthest ahead
			for d := range taken {
				if taken[(i+d)%len(taken)] {
					arc = d
				}
			}
			if taken[i] && arc < shortest {
				best, shortest = i, arc
			}
		}
		require.Equal(t, best, afterLargestGap(taken))
	})
}

func TestMedian(t *testing.T) {
	var w window
	for i, want := range []time.Duration{0, 0, 5, 7, 5, 5, 5} {
		w.add([]time.Duration{3, 9, 5, 7, 1, 4, 8}[i])
		require.Equal(t, want, w.median(), "after %d", i+1)
	}
}

// driver plays a random, correct cluster against one gather.
type driver struct {
	g   *Gather
	now time.Duration
	out Actions // the actions after the last event
	at  map[string][]driverBatch
	// step is the last step that any node began.
	step uint64
}

// driverBatch is a micro-batch in flight: its step, the layer that it asks for,
// and whether it has asked already.
type driverBatch struct {
	layer int
	waits bool
	step  uint64
}

const driverLayers, driverLinger = 3, 1000

func newDriver(t *rapid.T) *driver {
	g, err := New(Config{Layers: []int{0, 1, 2}, Linger: driverLinger})
	require.NoError(t, err)
	d := &driver{g: g, at: map[string][]driverBatch{}}
	for i := range rapid.IntRange(1, 4).Draw(t, "nodes") {
		name := fmt.Sprintf("A%d", i)
		require.NoError(t, g.Joined(name))
		d.at[name] = nil
	}
	return d
}

func (d *driver) node(t *rapid.T) string {
	names := make([]string, 0, len(d.at))
	for name := range d.at {
		names = append(names, name)
	}
	slices.Sort(names)
	return rapid.SampledFrom(names).Draw(t, "node")
}

// busy begins a step of a node whose micro-batches have all ended their step.
func (d *driver) busy(t *rapid.T) {
	name := d.node(t)
	for _, b := range d.at[name] {
		if b.waits || b.layer != 0 {
			t.Skip("in a step")
		}
	}
	m := rapid.IntRange(0, 3).Draw(t, "m")
	d.at[name] = make([]driverBatch, m)
	out, err := d.g.Busy(name, 1<<m-1, d.now)
	require.NoError(t, err)
	d.out = out
}

func (d *driver) arrive(t *rapid.T) {
	name := d.node(t)
	if len(d.at[name]) == 0 {
		t.Skip("idle")
	}
	i := rapid.IntRange(0, len(d.at[name])-1).Draw(t, "micro-batch")
	b := &d.at[name][i]
	if b.waits {
		t.Skip("unanswered")
	}
	if b.layer == 0 {
		d.step++
		b.step = d.step
	}
	b.waits = true
	m := Message{Node: name, Step: b.step, MicroBatch: i, Layer: b.layer, Rows: rapid.IntRange(0, 2).Draw(t, "rows")}
	out, err := d.g.Arrive(m, d.now)
	require.NoError(t, err)
	d.out = out
}

func (d *driver) done(t *rapid.T) {
	if d.g.running == nil {
		t.Skip("free")
	}
	for _, m := range d.g.running.Messages {
		if batches := d.at[m.Node]; m.MicroBatch < len(batches) && batches[m.MicroBatch].step == m.Step {
			batches[m.MicroBatch].waits = false
			batches[m.MicroBatch].layer = (m.Layer + 1) % driverLayers
		}
	}
	d.out = d.g.Done(d.now)
}

// lost loses a node and lets it join again.
func (d *driver) lost(t *rapid.T) {
	name := d.node(t)
	for _, m := range d.g.Lost(name, d.now).Drop {
		require.Equal(t, name, m.Node)
	}
	require.NoError(t, d.g.Joined(name))
	d.at[name] = nil
	d.out = d.g.Timer(d.now) // the timer that Lost asked for, or nothing where Lost began a run
}

func (d *driver) pass(t *rapid.T) {
	d.now += time.Duration(rapid.IntRange(0, driverLinger).Draw(t, "time"))
	if d.g.running == nil && d.out.Timer > 0 && d.out.Timer <= d.now {
		d.now = d.out.Timer
	}
	d.out = d.g.Timer(d.now)
}

// check: while the device is free and a message waits, a timer is set that ends
// within a linger.
func (d *driver) check(t *rapid.T) {
	if d.g.running != nil {
		return
	}
	for _, group := range d.g.groups {
		for _, w := range group {
			require.True(t, w.isHeld)
			require.Less(t, d.now, w.deadline)
			require.LessOrEqual(t, w.deadline-w.held, time.Duration(driverLinger))
			require.Positive(t, d.out.Timer)
			require.LessOrEqual(t, d.out.Timer, w.deadline)
		}
	}
}
