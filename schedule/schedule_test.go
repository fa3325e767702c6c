package schedule

import (
	"bytes"
	"encoding/json"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"pgregory.net/rapid"

	"github.com/tandem-moe/tandem/internal/golden"
)

func afterDense(n int) func(int) bool { return func(l int) bool { return l >= n } }

// goldenSchedules are in testdata by name.
var goldenSchedules = map[string]Serving{
	"pingpong-1-1":  {Attention: 1, Experts: 1, Layers: 2, MicroBatches: 1, Steps: 1},
	"pingpong-2-3":  {Attention: 2, Experts: 3, Layers: 3, MicroBatches: 3, Steps: 2},
	"pingpong-deep": {Attention: 3, Experts: 1, Layers: 4, Sparse: afterDense(1), MicroBatches: 2, Steps: 1},
	"pingpong-every-second": {Attention: 1, Experts: 2, Layers: 6, MicroBatches: 2, Steps: 1,
		Sparse: func(l int) bool { return l%2 == 1 }},
}

func TestPingPongGolden(t *testing.T) {
	for name, c := range goldenSchedules {
		t.Run(name, func(t *testing.T) {
			s, err := PingPong(c)
			require.NoError(t, err)
			golden.File(t, name+".txt", s.String())
			again, err := Parse(s.String())
			require.NoError(t, err)
			require.Equal(t, s, again)
		})
	}
}

// anyServing draws a small deployment.
func anyServing(t *rapid.T) Serving {
	sparse := rapid.SliceOfN(rapid.Bool(), 1, 6).Draw(t, "sparse")
	c := Serving{
		Attention: rapid.IntRange(1, 4).Draw(t, "attention"), Layers: len(sparse),
		Sparse:       func(l int) bool { return sparse[l] },
		MicroBatches: rapid.IntRange(1, 5).Draw(t, "m"), Steps: rapid.IntRange(1, 3).Draw(t, "steps"),
	}
	if len(spans(sparse)) > 0 {
		c.Experts = rapid.IntRange(1, 5).Draw(t, "experts")
	}
	return c
}

// TestPingPongIsValid for any shape, survives its text, and holds no more than
// m micro-batches.
func TestPingPongIsValid(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		c := anyServing(t)
		s, err := PingPong(c)
		require.NoError(t, err)
		require.NoError(t, s.Validate())
		for _, live := range s.PeakLive() {
			require.LessOrEqual(t, live, c.MicroBatches)
		}
		again, err := Parse(s.String())
		require.NoError(t, err)
		require.Equal(t, s, again)
	})
}

// TestPoolSizesDoNotMatter: where all ranks of a pool have the same list, in
// whatever order, a schedule of many ranks runs if and only if that of one
// attention rank and one expert rank does. Nodes prove the smaller one by it.
func TestPoolSizesDoNotMatter(t *testing.T) {
	ran := 0
	rapid.Check(t, func(t *rapid.T) {
		c := anyServing(t)
		many, err := PingPong(c)
		require.NoError(t, err)
		c.Attention, c.Experts = 1, min(c.Experts, 1)
		one, err := PingPong(c)
		require.NoError(t, err)
		for pool := range one.Ranks {
			list := one.Ranks[pool].Actions
			i := rapid.IntRange(0, len(list)-1).Draw(t, "i")
			j := min(i+rapid.IntRange(0, 3).Draw(t, "distance"), len(list)-1)
			list[i], list[j] = list[j], list[i]
			for r := range many.Ranks {
				if many.Ranks[r].Name[0] == one.Ranks[pool].Name[0] {
					many.Ranks[r].Actions = slices.Clone(list)
				}
			}
		}
		small, large := one.Validate(), many.Validate()
		require.Equal(t, small == nil, large == nil, "%v; %v", small, large)
		if small == nil {
			ran++
		}
	})
	require.NotZero(t, ran)
}

func TestPingPongRefuses(t *testing.T) {
	for want, c := range map[string]Serving{
		"0 attention ranks, want at least 1": {Experts: 1, Layers: 1, MicroBatches: 1, Steps: 1},
		"-1 layers, want at least 1": {Attention: 1, Experts: 1, Layers: -1, MicroBatches: 1,
			Steps: 1},
		"0 micro-batches, want at least 1":                {Attention: 1, Experts: 1, Layers: 1, Steps: 1},
		"0 steps, want at least 1":                        {Attention: 1, Experts: 1, Layers: 1, MicroBatches: 1},
		"0 expert ranks, and the model has sparse layers": {Attention: 1, Layers: 1, MicroBatches: 1, Steps: 1},
		"2 expert ranks, and the model has no sparse layer": {Attention: 1, Experts: 2, Layers: 1, MicroBatches: 1,
			Steps:  1,
			Sparse: func(int) bool { return false }},
	} {
		_, err := PingPong(c)
		require.ErrorContains(t, err, want)
	}
}

// TestPingPongIsBounded: absurd numbers are refused before anything is allocated
// by them, each by its name.
func TestPingPongIsBounded(t *testing.T) {
	const absurd = 1 << 62
	for want, c := range map[string]Serving{
		"attention ranks, at most 1048576": {Attention: absurd, Experts: 1, Layers: 1, MicroBatches: 1, Steps: 1},
		"expert ranks, at most 1048576":    {Attention: 1, Experts: absurd, Layers: 1, MicroBatches: 1, Steps: 1},
		"layers, at most 65536":            {Attention: 1, Experts: 1, Layers: absurd, MicroBatches: 1, Steps: 1},
		"micro-batches, at most 1048576":   {Attention: 1, Experts: 1, Layers: 1, MicroBatches: absurd, Steps: 1},
		"steps, at most 1048576":           {Attention: 1, Experts: 1, Layers: 1, MicroBatches: 1, Steps: absurd},
		"1048576 attention and 1048576 expert ranks, 65536 layers, 1048576 micro-batches and 1048576 steps make more than 1048576 actions": {
			Attention: 1 << 20, Experts: 1 << 20, Layers: 1 << 16, MicroBatches: 1 << 20, Steps: 1 << 20,
		},
		"make more than 1048576 actions": {Attention: 1, Experts: 1, Layers: 100, MicroBatches: 100, Steps: 100},
	} {
		_, err := PingPong(c)
		require.ErrorContains(t, err, want)
	}
}

func TestTransfersGolden(t *testing.T) {
	for _, name := range []string{"pingpong-every-second", "1f1b", "interleaved"} {
		var b strings.Builder
		transfers, err := read(t, name+".txt").Transfers()
		require.NoError(t, err)
		for tr := range transfers {
			fmt.Fprintln(&b, tr)
		}
		golden.File(t, name+".transfers", b.String())
	}
}

// TestTransfersServing counts them: between attention and experts each owner
// sends to each, once for each layer, micro-batch and step; nothing else moves.
func TestTransfersServing(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		c := anyServing(t)
		s, err := PingPong(c)
		require.NoError(t, err)
		transfers, err := s.Transfers()
		require.NoError(t, err)
		sparse := 0
		for _, in := range s.Sparse {
			if in {
				sparse++
			}
		}
		list := slices.Collect(transfers)
		require.Len(t, list, 2*c.Attention*c.Experts*sparse*c.MicroBatches*c.Steps)
		for _, tr := range list {
			require.NotEqual(t, tr.Producer.Part == Experts, tr.Consumer.Part == Experts)
			require.Equal(t, tr.Producer.MicroBatch, tr.Consumer.MicroBatch)
			require.Equal(t, tr.Producer.Step, tr.Consumer.Step)
		}
	})
}

func read(t *testing.T, file string) *Schedule {
	t.Helper()
	text, err := os.ReadFile(filepath.Join("testdata", file))
	require.NoError(t, err)
	s, err := Parse(string(text))
	require.NoError(t, err)
	return s
}

// TestTrainingSchedules: schedules written by hand, with backward actions, are
// understood too.
func TestTrainingSchedules(t *testing.T) {
	for file, live := range map[string][]int{
		"1f1b.txt":        {4, 3}, // attention and experts of two micro-batches; one, and its head
		"interleaved.txt": {2, 2, 2, 2, 2, 3},
	} {
		s := read(t, file)
		require.NoError(t, s.Validate(), file)
		require.Equal(t, live, s.PeakLive(), file)
	}
}

// TestInvalid reads schedules that cannot run: each file is a schedule, a line
// of dashes, and the error.
func TestInvalid(t *testing.T) {
	files, err := filepath.Glob("testdata/invalid/*.txt")
	require.NoError(t, err)
	require.NotEmpty(t, files)
	for _, file := range files {
		t.Run(strings.TrimSuffix(filepath.Base(file), ".txt"), func(t *testing.T) {
			content, err := os.ReadFile(file)
			require.NoError(t, err)
			text, _, found := strings.Cut(string(content), "-----\n")
			require.True(t, found)
			s, err := Parse(text)
			if err == nil {
				err = s.Validate()
				require.Error(t, err)
				_, dry := DryRun(s, func(Action) time.Duration { return 1 }, 1)
				if dry != nil { // it does not look at max-live
					require.Equal(t, err.Error(), dry.Error())
				}
			}
			golden.File(t, filepath.Join("invalid", filepath.Base(file)), text+"-----\n"+err.Error()+"\n")
		})
	}
}

// TestOwnedTwice: a stage that a rank names twice is owned once, and one of a part
// that there is not is refused.
func TestOwnedTwice(t *testing.T) {
	s, err := Parse("schedule x\nlayers 2\nmicro-batches 1\nsteps 1\nrank r owns A0-1 A1 H\nA0F0 A1F0 HF0\n")
	require.NoError(t, err)
	require.NoError(t, s.Validate())
	s.Ranks[0].Owns = append(s.Ranks[0].Owns, Layers('x', 0, 1))
	require.ErrorContains(t, s.Validate(), "rank r: stages ?120?0-1: part ?120?, want one of AEH")
}

// TestMutations: take a valid schedule and drop, repeat or move an action. What
// is dropped or repeated is always found; what is moved either still runs or is
// a deadlock that names a rank.
func TestMutations(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		s, err := PingPong(anyServing(t))
		require.NoError(t, err)
		r := &s.Ranks[rapid.IntRange(0, len(s.Ranks)-1).Draw(t, "rank")]
		i := rapid.IntRange(0, len(r.Actions)-1).Draw(t, "i")
		j := rapid.IntRange(0, len(r.Actions)-1).Draw(t, "j")
		switch rapid.IntRange(0, 2).Draw(t, "kind") {
		case 0:
			r.Actions = append(r.Actions[:i], r.Actions[i+1:]...)
			require.ErrorContains(t, s.Validate(), "is missing")
		case 1:
			r.Actions = append(r.Actions, r.Actions[i])
			require.ErrorContains(t, s.Validate(), "it is there twice, first at "+fmt.Sprint(i))
		case 2:
			r.Actions[i], r.Actions[j] = r.Actions[j], r.Actions[i]
			s.MaxLive = 0
			if err := s.Validate(); err != nil {
				require.ErrorContains(t, err, "deadlock: it waits for")
				require.ErrorContains(t, err, "[")
			}
		}
	})
}

// TestPeakLiveSlow compares with the obvious version: at each action, count
// what began at or before it and ends at or after it.
func TestPeakLiveSlow(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		s, err := PingPong(anyServing(t))
		require.NoError(t, err)
		r := &s.Ranks[0]
		r.Actions = rapid.Permutation(r.Actions).Draw(t, "order")
		first, last := map[[2]int]int{}, map[[2]int]int{}
		for i, a := range r.Actions {
			k := [2]int{a.Step, a.MicroBatch}
			if _, ok := first[k]; !ok {
				first[k] = i
			}
			last[k] = i
		}
		want := 0
		for i := range r.Actions {
			live := 0
			for k := range first {
				if first[k] <= i && i <= last[k] {
					live++
				}
			}
			want = max(want, live)
		}
		require.Equal(t, want, s.PeakLive()[0])
	})
}

func TestDrawGolden(t *testing.T) {
	s := read(t, "pingpong-2-3.txt")
	line, err := DryRun(s, serving(10, 8, 2), 1)
	require.NoError(t, err)
	var b bytes.Buffer
	require.NoError(t, s.WriteGrid(&b))
	for _, columns := range []int{220, 80, 1} {
		require.NoError(t, line.Draw(&b, columns))
	}
	golden.File(t, "pingpong-2-3.drawing", b.String())
}

func TestChromeTraceGolden(t *testing.T) {
	line, err := DryRun(read(t, "pingpong-1-1.txt"), serving(10, 8, 2), 1)
	require.NoError(t, err)
	var b, pretty bytes.Buffer
	require.NoError(t, line.WriteChromeTrace(&b))
	require.NoError(t, json.Indent(&pretty, b.Bytes(), "", " "))
	golden.File(t, "pingpong-1-1.trace.json", pretty.String())
}

// TestDrawPrintsWriteErrors: a full disk is not silent.
func TestDrawPrintsWriteErrors(t *testing.T) {
	line, err := DryRun(read(t, "pingpong-1-1.txt"), serving(1, 1, 1), 0)
	require.NoError(t, err)
	require.ErrorContains(t, line.Draw(full{}, 10), "drawing timeline pingpong: disk full")
	require.ErrorContains(t, line.WriteChromeTrace(full{}), "writing the trace of pingpong: disk full")
	require.ErrorContains(t, read(t, "pingpong-1-1.txt").WriteGrid(full{}), "writing the grid of pingpong: disk full")
}

// TestGridIsBounded: a grid has a cell for each rank and index, however short the
// other lists are.
func TestGridIsBounded(t *testing.T) {
	s := &Schedule{Name: "x", Ranks: make([]Rank, 5000)}
	s.Ranks[7].Actions = make([]Action, 1000)
	require.ErrorContains(t, s.WriteGrid(full{}), "a grid of 1000 rows and 5000 ranks has 5000000 cells, at most 4194304")
}

type full struct{}

func (full) Write([]byte) (int, error) { return 0, fmt.Errorf("disk full") }

// FuzzProve: whatever a text says, it is proved or refused in time that its
// length bounds, and what is proved can be timed, drawn, traced and split.
func FuzzProve(f *testing.F) {
	files, err := filepath.Glob("testdata/*.txt")
	require.NoError(f, err)
	invalid, err := filepath.Glob("testdata/invalid/*.txt")
	require.NoError(f, err)
	for _, file := range append(files, invalid...) {
		text, err := os.ReadFile(file)
		require.NoError(f, err)
		f.Add(string(text))
	}
	f.Add("schedule x\nlayers 65536\nmicro-batches 1073741823\nsteps 1073741823\nrank r owns A0-65535 H\n1:A0F0\n")
	f.Fuzz(func(t *testing.T, text string) {
		s, err := Parse(text)
		if err != nil {
			return
		}
		if s.Validate() != nil {
			return
		}
		line, err := DryRun(s, s.Durations(Times{3, 5, 7}), 2)
		require.NoError(t, err)
		require.NoError(t, line.Draw(io.Discard, 80))
		require.NoError(t, line.WriteChromeTrace(io.Discard))
		require.NoError(t, s.WriteGrid(io.Discard))
		transfers, err := s.Transfers()
		require.NoError(t, err)
		count := 0
		for range transfers {
			count++
		}
		require.Equal(t, line.Transfers, count)
		for r := range s.Ranks {
			_, _, _ = s.Cycle(r) // an order that does not repeat is refused
		}
	})
}
