package schedule

import (
	"fmt"
	"slices"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"pgregory.net/rapid"
)

// serving makes durations from the times of the parts, in milliseconds.
func serving(attention, experts, head int) func(Action) time.Duration {
	return func(a Action) time.Duration {
		n := map[Part]int{Attention: attention, Experts: experts, Head: head}[a.Part]
		return time.Duration(n) * time.Millisecond
	}
}

// find returns when a rank ran an action.
func (t *Timeline) find(rank int, a Action) (Span, bool) {
	spans := t.Ranks[rank].Spans
	i := slices.IndexFunc(spans, func(s Span) bool { return s.Action == a })
	if i < 0 {
		return Span{}, false
	}
	return spans[i], true
}

// times are those of MegaScale-Infer, section 4.1, for one micro-batch.
type times struct {
	a, e, c time.Duration
	m, l    int
}

func anyTimes(t *rapid.T) times {
	ms := func(name string, low, high int) time.Duration {
		return time.Duration(rapid.IntRange(low, high).Draw(t, name)) * time.Millisecond
	}
	return times{
		a: ms("T_a", 1, 50), e: ms("T_e", 1, 50), c: ms("T_c", 0, 50),
		m: rapid.IntRange(1, 6).Draw(t, "m"), l: rapid.IntRange(1, 12).Draw(t, "L"),
	}
}

func (x times) f() time.Duration { return max(x.a, x.e) }

// fills is condition (3): m·T_f ≥ 2 (T_f + T_c).
func (x times) fills() bool { return time.Duration(x.m)*x.f() >= 2*(x.f()+x.c) }

// total is equation (5), of one step of all m micro-batches.
func (x times) total() time.Duration {
	return x.a + x.e + 2*x.c + x.f()*time.Duration(x.m*x.l-1)
}

// run dry-runs the ping-pong on two ranks with a head that takes no time.
func (x times) run(t *rapid.T, steps int) *Timeline {
	s, err := PingPong(Serving{Attention: 1, Experts: 1, Layers: x.l, MicroBatches: x.m, Steps: steps})
	require.NoError(t, err)
	line, err := DryRun(s, func(a Action) time.Duration {
		return map[Part]time.Duration{Attention: x.a, Experts: x.e}[a.Part]
	}, x.c)
	require.NoError(t, err)
	return line
}

// TestEquation5: with enough micro-batches a step takes what the paper says, to
// the nanosecond; it never takes less.
func TestEquation5(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		x := anyTimes(t)
		makespan := x.run(t, 1).Makespan
		require.GreaterOrEqual(t, makespan, x.total())
		if x.fills() {
			require.Equal(t, x.total(), makespan)
		}
	})
}

// TestCondition3: where attention and experts take equally long, the condition
// m ≥ 2(1 + T_c/T_f) is exact: one micro-batch less, and the pipeline has
// bubbles (a single layer has no round trip to fill).
func TestCondition3(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		x := anyTimes(t)
		x.e = x.a
		makespan := x.run(t, 1).Makespan
		require.Equal(t, x.fills() || x.l == 1, makespan == x.total())
	})
}

// TestEquation4: in the steady state the time between a micro-batch's first
// attention and its return from the last layer is within the paper's bounds,
// and the slower part begins a step every m·T_f·L.
func TestEquation4(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		x := anyTimes(t)
		if !x.fills() {
			t.Skip("bubbles")
		}
		const steps = 4
		line := x.run(t, steps)
		cycle := x.f() * time.Duration(x.m*x.l)
		for i := range x.m {
			at := func(step int, p Part, layer int) Span {
				rank := map[Part]int{Attention: 0, Head: 0, Experts: 1}[p]
				span, ok := line.find(rank, Action{p, layer, Forward, i, step})
				require.True(t, ok)
				return span
			}
			begin, back := at(steps-1, Attention, 0).Start, at(steps-1, Experts, x.l-1).End+x.c
			require.LessOrEqual(t, x.a+x.e+2*x.c+x.f()*time.Duration(x.m*(x.l-1)), back-begin)
			require.LessOrEqual(t, back-begin, cycle)
			slower := Attention
			if x.e > x.a {
				slower = Experts
			}
			require.Equal(t, cycle, at(steps, slower, 0).Start-at(steps-1, slower, 0).Start)
		}
	})
}

// TestBubbles: a rank is busy for m·T_f of each cycle, which lasts that long or
// as one round trip does. With the paper's figures m = 3 suffices for
// T_c < T_f/2 and 4 for T_c < T_f.
func TestBubbles(t *testing.T) {
	for _, c := range []struct {
		m, transfer int
		full        bool
	}{
		{1, 4, false}, {2, 4, false}, {3, 4, true}, {3, 8, false}, {4, 8, true},
	} {
		s, err := PingPong(Serving{Attention: 2, Experts: 2, Layers: 64, MicroBatches: c.m, Steps: 1})
		require.NoError(t, err)
		line, err := DryRun(s, serving(10, 10, 0), time.Duration(c.transfer)*time.Millisecond)
		require.NoError(t, err)
		busy, trip := float64(10*c.m), float64(20+2*c.transfer)
		require.Equal(t, c.full, busy >= trip)
		for _, r := range line.Ranks {
			require.InDelta(t, 1-busy/max(busy, trip), r.Bubble, 0.02, "m %d, transfer %d, rank %s", c.m, c.transfer, r.Name)
		}
	}
}

// TestDryRunOrder: starts and ends are consistent with the lists and with the
// transfers, for any shape and duration.
func TestDryRunOrder(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		s, err := PingPong(anyServing(t))
		require.NoError(t, err)
		const transfer = 7
		line, err := DryRun(s, func(a Action) time.Duration { return time.Duration(3*a.Layer + 5*a.MicroBatch) }, transfer)
		require.NoError(t, err)
		for r, rank := range line.Ranks {
			var free, busy time.Duration
			for i, span := range rank.Spans {
				require.Equal(t, s.Ranks[r].Actions[i], span.Action)
				require.GreaterOrEqual(t, span.Start, free)
				free = span.End
				busy += span.End - span.Start
			}
			require.Equal(t, busy, rank.Busy)
			require.LessOrEqual(t, free, line.Makespan)
		}
		transfers, err := s.Transfers()
		require.NoError(t, err)
		for tr := range transfers {
			made, _ := line.find(tr.From, tr.Producer)
			used, _ := line.find(tr.To, tr.Consumer)
			require.GreaterOrEqual(t, used.Start, made.End+transfer)
		}
	})
}

func TestDryRunRefuses(t *testing.T) {
	s, err := PingPong(Serving{Attention: 1, Experts: 1, Layers: 1, MicroBatches: 1, Steps: 1})
	require.NoError(t, err)
	_, err = DryRun(s, serving(1, 1, 1), -1)
	require.ErrorContains(t, err, "a transfer takes -1ns")
	_, err = DryRun(s, serving(1, -1, 1), 0)
	require.ErrorContains(t, err, "E0F0 takes -1ms")
}

// slowDryRun is DryRun as it is defined: it looks at all ranks until none moves.
func slowDryRun(t *rapid.T, s *Schedule, durations func(Action) time.Duration, transfer time.Duration) [][]Span {
	type place struct {
		rank   int
		action Action
	}
	transfers, err := s.Transfers()
	require.NoError(t, err)
	needs := map[place][]place{}
	for tr := range transfers {
		to := place{tr.To, tr.Consumer}
		needs[to] = append(needs[to], place{tr.From, tr.Producer})
	}
	ends := map[place]time.Duration{}
	spans := make([][]Span, len(s.Ranks))
	for moved := true; moved; {
		moved = false
		for r := range s.Ranks {
			i := len(spans[r])
			if i == len(s.Ranks[r].Actions) {
				continue
			}
			a := s.Ranks[r].Actions[i]
			var start time.Duration
			if i > 0 {
				start = spans[r][i-1].End
			}
			ready := true
			for _, n := range needs[place{r, a}] {
				end, ended := ends[n]
				ready = ready && ended
				start = max(start, end+transfer)
			}
			if ready {
				end := start + durations(a)
				ends[place{r, a}] = end
				spans[r] = append(spans[r], Span{a, start, end})
				moved = true
			}
		}
	}
	return spans
}

// anyColocated draws a schedule whose ranks own all parts of all layers, and take
// the micro-batches of each stage in orders of their own.
func anyColocated(t *rapid.T) *Schedule {
	layers, m := rapid.IntRange(1, 3).Draw(t, "layers"), rapid.IntRange(1, 4).Draw(t, "m")
	s := &Schedule{Name: "colocated", Layers: layers, Sparse: make([]bool, layers), MicroBatches: m, Steps: 1}
	for l := range s.Sparse {
		s.Sparse[l] = true
	}
	for i := range rapid.IntRange(1, 4).Draw(t, "ranks") {
		r := Rank{
			Name: fmt.Sprintf("R%d", i),
			Owns: []Stages{Layers(Attention, 0, layers-1), Layers(Experts, 0, layers-1), heads},
		}
		for _, st := range chain(s) {
			for _, micro := range rapid.Permutation(indices(m)).Draw(t, "order") {
				r.Actions = append(r.Actions, s.forward(1, st.part, st.layer, micro))
			}
		}
		s.Ranks = append(s.Ranks, r)
	}
	return s
}

func indices(n int) (list []int) {
	for i := range n {
		list = append(list, i)
	}
	return list
}

func chain(s *Schedule) []stage {
	x := &index{s: s}
	x.makeChain()
	return x.chain
}

// TestDryRunSlow compares with the slow version: schedules of serving and of
// training, also with ranks that own both parts, and any durations.
func TestDryRunSlow(t *testing.T) {
	files := []*Schedule{read(t, "1f1b.txt"), read(t, "interleaved.txt"), read(t, "pingpong-2-3.txt")}
	rapid.Check(t, func(t *rapid.T) {
		s := files[rapid.IntRange(0, len(files)-1).Draw(t, "file")]
		switch rapid.IntRange(0, 2).Draw(t, "kind") {
		case 0:
			var err error
			s, err = PingPong(anyServing(t))
			require.NoError(t, err)
		case 1:
			s = anyColocated(t)
		}
		scale := rapid.SliceOfN(rapid.IntRange(0, 9), 7, 7).Draw(t, "scale")
		durations := func(a Action) time.Duration {
			return time.Duration(scale[(5*a.Layer+3*a.MicroBatch+2*a.Step+int(a.Part)+int(a.Direction))%7])
		}
		transfer := time.Duration(rapid.IntRange(0, 20).Draw(t, "transfer"))
		want := slowDryRun(t, s, durations, transfer)
		line, err := DryRun(s, durations, transfer)
		require.NoError(t, err)
		for r := range s.Ranks {
			require.Equal(t, want[r], line.Ranks[r].Spans)
		}
		transfers, err := s.Transfers()
		require.NoError(t, err)
		require.Len(t, slices.Collect(transfers), line.Transfers)
	})
}

// TestDurations: a backward pass has twice the products of its forward one; the
// two gradients have half of them each where they are split.
func TestDurations(t *testing.T) {
	times := Times{Attention: 3, Experts: 5, Head: 7}
	for word, want := range map[string]time.Duration{"A0F0": 3, "E0F0": 5, "HF0": 7, "A1B2": 6, "E1B0": 10, "HB1": 14} {
		a, err := ParseAction(word)
		require.NoError(t, err)
		require.Equal(t, want, read(t, "1f1b.txt").Durations(times)(a), word)
	}
	for word, want := range map[string]time.Duration{"A0F0": 3, "E1B0": 5, "HW1": 7} {
		a, err := ParseAction(word)
		require.NoError(t, err)
		require.Equal(t, want, read(t, "interleaved.txt").Durations(times)(a), word)
	}
}

// TestDryRunOverflow: times that no clock counts are refused.
func TestDryRunOverflow(t *testing.T) {
	s, err := PingPong(Serving{Attention: 1, Experts: 1, Layers: 1, MicroBatches: 1, Steps: 1})
	require.NoError(t, err)
	const year = 365 * 24 * time.Hour
	for _, c := range []struct{ d, transfer time.Duration }{{100 * year, 0}, {time.Second, 150 * year}, {1<<63 - 1, 1}, {1, 1<<63 - 1}} {
		_, err = DryRun(s, func(Action) time.Duration { return c.d }, c.transfer)
		require.ErrorContains(t, err, "no clock counts that far")
	}
}

// BenchmarkValidate proves what an attention node of a large cluster proves
// before it starts: 100 layers, 64 expert ranks, 4 micro-batches, 3 steps.
func BenchmarkValidate(b *testing.B) {
	s, err := PingPong(Serving{Attention: 1, Experts: 64, Layers: 100, MicroBatches: 4, Steps: 3})
	require.NoError(b, err)
	for b.Loop() {
		require.NoError(b, s.Validate())
	}
}
