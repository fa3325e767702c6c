package schedule

import (
	"fmt"
	"slices"
	"testing"

	"github.com/stretchr/testify/require"
	"pgregory.net/rapid"
)

// unroll is prologue, cycle, cycle …, without the actions of steps above `steps`.
func unroll(prologue, cycle []Action, steps int) []Action {
	list := slices.Clone(prologue)
	for turn := range steps {
		for _, a := range cycle {
			if a.Step+turn <= steps {
				list = append(list, a.At(a.Step+turn))
			}
		}
	}
	return list
}

// TestCycleUnrolls: the cycle that three steps show makes the list of a schedule
// of any number of steps, on every rank.
func TestCycleUnrolls(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		c := anyServing(t)
		c.Steps = 3
		short, err := PingPong(c)
		require.NoError(t, err)
		c.Steps = rapid.IntRange(3, 9).Draw(t, "steps")
		long, err := PingPong(c)
		require.NoError(t, err)
		for r := range short.Ranks {
			prologue, cycle, err := short.Cycle(r)
			require.NoError(t, err)
			require.Equal(t, long.Ranks[r].Actions, unroll(prologue, cycle, c.Steps))
		}
	})
}

// TestCycle shows the split of an attention rank, of an expert rank, and of a
// schedule of one step.
func TestCycle(t *testing.T) {
	c := Serving{Attention: 1, Experts: 1, Layers: 2, MicroBatches: 2, Steps: 3}
	s, err := PingPong(c)
	require.NoError(t, err)
	for r, want := range []string{
		"[1:A0F0 1:A0F1 1:A1F0 1:A1F1] [1:HF0 2:A0F0 1:HF1 2:A0F1 2:A1F0 2:A1F1]",
		"[1:E0F0 1:E0F1 1:E1F0 1:E1F1] [2:E0F0 2:E0F1 2:E1F0 2:E1F1]",
	} {
		prologue, cycle, err := s.Cycle(r)
		require.NoError(t, err)
		require.Equal(t, want, fmt.Sprint(prologue, cycle))
	}
	c.Steps = 1
	s, err = PingPong(c)
	require.NoError(t, err)
	prologue, cycle, err := s.Cycle(0)
	require.NoError(t, err)
	require.Empty(t, prologue)
	require.Equal(t, s.Ranks[0].Actions, cycle)
}

// TestCycleRefuses steps that do not repeat, and names the place.
func TestCycleRefuses(t *testing.T) {
	c := Serving{Attention: 1, Experts: 1, Layers: 1, MicroBatches: 2, Steps: 3}
	for name, f := range map[string]struct {
		change func(s *Schedule)
		want   string
	}{
		"two steps":     {func(s *Schedule) { s.Steps = 2 }, "has 2 steps: from 3 on they show how they repeat"},
		"another order": {swap("3:A0F1", "2:HF1"), "rank A0, 8: 3:A0F1: the steps do not repeat: want 2:HF1 here, as 1:HF1 came a step before"},
		"at the end":    {swap("3:HF0", "3:HF1"), "rank A0, 10: 3:HF1: the steps do not repeat: want 3:HF0 here, as 2:HF0 came a step before"},
		"too short": {func(s *Schedule) { s.Ranks[0].Actions = s.Ranks[0].Actions[:11] },
			"rank A0, 11: end: the steps do not repeat: want 3:HF1 here"},
		"too long": {func(s *Schedule) {
			s.Ranks[0].Actions = append(s.Ranks[0].Actions, Action{Part: Head, Direction: Forward, Step: 3})
		}, "rank A0, 12: 3:HF0: the steps do not repeat: it has no counterpart"},
		"step 3 missing":   {func(s *Schedule) { s.Ranks[0].Actions = s.Ranks[0].Actions[:6] }, "rank A0 has no cycle"},
		"step 3 is sooner": {func(s *Schedule) { slices.Reverse(s.Ranks[0].Actions) }, "rank A0 has no cycle"},
	} {
		t.Run(name, func(t *testing.T) {
			s, err := PingPong(c)
			require.NoError(t, err)
			f.change(s)
			_, _, err = s.Cycle(0)
			require.ErrorContains(t, err, f.want)
		})
	}
}

// swap exchanges two actions of the first rank.
func swap(a, b string) func(*Schedule) {
	return func(s *Schedule) {
		list := s.Ranks[0].Actions
		at := func(word string) int {
			return slices.IndexFunc(list, func(x Action) bool { return x.String() == word })
		}
		i, j := at(a), at(b)
		list[i], list[j] = list[j], list[i]
	}
}
