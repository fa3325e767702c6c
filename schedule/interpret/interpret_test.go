package interpret

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"sync"
	"testing"

	"github.com/stretchr/testify/require"
	"pgregory.net/rapid"

	"github.com/tandem-moe/tandem/schedule"
)

// notes is a performer that notes the words of its actions, and fails at one.
type notes struct {
	words  []string
	fails  string
	cancel func()
}

var errDevice = errors.New("the device is gone")

func (n *notes) perform(_ context.Context, a schedule.Action) error {
	if a.String() == n.fails {
		if n.cancel == nil {
			return errDevice
		}
		n.cancel()
	}
	n.words = append(n.words, a.String())
	return nil
}

func words(list []schedule.Action) []string {
	var all []string
	for _, a := range list {
		all = append(all, a.String())
	}
	return all
}

// anyServing draws a small deployment with `steps` steps.
func anyServing(t *rapid.T, steps int) schedule.Serving {
	sparse := rapid.SliceOfN(rapid.Bool(), 1, 5).Draw(t, "sparse")
	sparse[0] = true
	return schedule.Serving{
		Attention: rapid.IntRange(1, 3).Draw(t, "attention"), Experts: rapid.IntRange(1, 3).Draw(t, "experts"),
		Layers: len(sparse), Sparse: func(l int) bool { return sparse[l] },
		MicroBatches: rapid.IntRange(1, 4).Draw(t, "m"), Steps: steps,
	}
}

// TestOrder: what is performed is the list of a schedule with as many steps, in
// its order, on every rank. At says each action while it is performed.
func TestOrder(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		c := anyServing(t, 3)
		s, err := schedule.PingPong(c)
		require.NoError(t, err)
		c.Steps = rapid.IntRange(3, 8).Draw(t, "steps")
		long, err := schedule.PingPong(c)
		require.NoError(t, err)
		for r := range s.Ranks {
			w, err := New(s, r)
			require.NoError(t, err)
			var got []schedule.Action
			for range c.Steps + 2 { // the prologue, and each step's end one turn later
				require.NoError(t, w.Pass(t.Context(), func(_ context.Context, a schedule.Action) error {
					require.Equal(t, a, w.At())
					require.EqualValues(t, len(got), w.Performed())
					got = append(got, a)
					return nil
				}))
			}
			kept := got[:0]
			for _, a := range got {
				if a.Step <= c.Steps {
					kept = append(kept, a)
				}
			}
			require.Equal(t, words(long.Ranks[r].Actions), words(kept))
		}
	})
}

// TestPasses: a pass is the prologue or one turn of the cycle; that of a
// schedule with one step, as in training, is the list, each time.
func TestPasses(t *testing.T) {
	s, err := schedule.PingPong(schedule.Serving{Attention: 1, Experts: 1, Layers: 1, MicroBatches: 2, Steps: 3})
	require.NoError(t, err)
	w, err := New(s, 0)
	require.NoError(t, err)
	for _, want := range []string{"[1:A0F0 1:A0F1]", "[1:HF0 2:A0F0 1:HF1 2:A0F1]", "[2:HF0 3:A0F0 2:HF1 3:A0F1]", "[3:HF0 4:A0F0 3:HF1 4:A0F1]"} {
		var n notes
		require.NoError(t, w.Pass(t.Context(), n.perform))
		require.Equal(t, want, fmt.Sprint(n.words))
	}
	require.Equal(t, "4:HF0", w.At().String(), "between two passes it is at the next action")

	s = read(t, "1f1b.txt")
	w, err = New(s, 1)
	require.NoError(t, err)
	for range 3 {
		var n notes
		require.NoError(t, w.Pass(t.Context(), n.perform))
		require.Equal(t, words(s.Ranks[1].Actions), n.words)
	}
}

func read(t *testing.T, file string) *schedule.Schedule {
	t.Helper()
	text, err := os.ReadFile(filepath.Join("..", "testdata", file))
	require.NoError(t, err)
	s, err := schedule.Parse(string(text))
	require.NoError(t, err)
	return s
}

// TestErrors: an error of any action begins with its word and ends the walk, at
// that action and for good.
func TestErrors(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		s, err := schedule.PingPong(anyServing(t, 3))
		require.NoError(t, err)
		r := rapid.IntRange(0, len(s.Ranks)-1).Draw(t, "rank")
		list := s.Ranks[r].Actions
		i := rapid.IntRange(0, len(list)-1).Draw(t, "i")
		w, err := New(s, r)
		require.NoError(t, err)
		n := &notes{fails: list[i].String()}
		for i := 0; err == nil && i < 5; i++ { // more than three steps have
			err = w.Pass(t.Context(), n.perform)
		}
		require.EqualError(t, err, n.fails+": the device is gone")
		require.ErrorIs(t, err, errDevice)
		require.Equal(t, n.fails, w.At().String())
		n.fails = ""
		before := len(n.words)
		require.ErrorIs(t, w.Pass(t.Context(), n.perform), errDevice)
		require.Len(t, n.words, before)
	})
}

// TestCancel: no action begins after ctx has ended.
func TestCancel(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		s, err := schedule.PingPong(anyServing(t, 3))
		require.NoError(t, err)
		list := s.Ranks[0].Actions
		i := rapid.IntRange(0, len(list)-1).Draw(t, "i")
		w, err := New(s, 0)
		require.NoError(t, err)
		ctx, cancel := context.WithCancel(t.Context())
		defer cancel()
		n := &notes{fails: list[i].String(), cancel: cancel}
		for i := 0; err == nil && i < 5; i++ { // more than three steps have
			err = w.Pass(ctx, n.perform)
		}
		require.ErrorIs(t, err, context.Canceled)
		require.ErrorContains(t, err, w.At().String()+": ")
		require.Equal(t, n.fails, n.words[len(n.words)-1])
	})
}

// TestAtFromElsewhere: another goroutine reads the place while it changes. The
// race detector watches.
func TestAtFromElsewhere(t *testing.T) {
	s, err := schedule.PingPong(schedule.Serving{Attention: 1, Experts: 1, Layers: 2, MicroBatches: 2, Steps: 3})
	require.NoError(t, err)
	w, err := New(s, 0)
	require.NoError(t, err)
	ctx, cancel := context.WithCancel(t.Context())
	var readers sync.WaitGroup
	seen := make(chan int, 1)
	readers.Go(func() {
		most := 0
		for ctx.Err() == nil {
			step := w.At().Step
			if step < most-1 { // a head is of the step before
				t.Errorf("step %d after %d", step, most)
			}
			most = max(most, step)
		}
		seen <- most
	})
	for range 1000 {
		require.NoError(t, w.Pass(ctx, new(notes).perform))
	}
	cancel()
	readers.Wait()
	require.LessOrEqual(t, <-seen, 1001)
	require.Equal(t, "1000:HF0", w.At().String())
}

// TestRefuses what does not run, and what cannot be walked.
func TestRefuses(t *testing.T) {
	for name, c := range map[string]struct{ text, want string }{
		"a deadlock":       {"schedule x\nlayers 1\nmicro-batches 2\nsteps 1\nrank r owns A0 H\nHF0 A0F0 A0F1 HF1\n", "rank r, 0: HF0: deadlock"},
		"two steps":        {"schedule x\nlayers 1\nmicro-batches 1\nsteps 2\nrank r owns A0 H\n1:A0F0 1:HF0 2:A0F0 2:HF0\n", "has 2 steps"},
		"nothing to do":    {"schedule x\nlayers 1\nmicro-batches 1\nsteps 1\nrank r owns\nrank s owns A0 H\nA0F0 HF0\n", "rank r has no actions"},
		"no repetition":    {"schedule x\nlayers 1\nmicro-batches 2\nsteps 3\nrank r owns A0 H\n1:A0F0 1:A0F1 1:HF0 1:HF1 2:A0F0 2:A0F1 2:HF0 2:HF1 3:A0F1 3:A0F0 3:HF0 3:HF1\n", "rank r, 8: 3:A0F1: the steps do not repeat: want 3:A0F0"},
		"too many at once": {"schedule x\nlayers 1\nmicro-batches 2\nsteps 1\nmax-live 1\nrank r owns A0 H\nA0F0 A0F1 HF0 HF1\n", "2 micro-batches are live"},
	} {
		t.Run(name, func(t *testing.T) {
			s, err := schedule.Parse(c.text)
			require.NoError(t, err)
			_, err = New(s, 0)
			require.ErrorContains(t, err, c.want)
		})
	}
}

// BenchmarkPass is what the walk adds to a turn of 99 actions: 32 layers and the
// head, of 3 micro-batches.
func BenchmarkPass(b *testing.B) {
	s, err := schedule.PingPong(schedule.Serving{Attention: 1, Experts: 1, Layers: 32, MicroBatches: 3, Steps: 3})
	require.NoError(b, err)
	w, err := New(s, 0)
	require.NoError(b, err)
	ctx, cancel := context.WithCancel(b.Context())
	defer cancel()
	nothing := func(context.Context, schedule.Action) error { return nil }
	for b.Loop() {
		require.NoError(b, w.Pass(ctx, nothing))
	}
}
