package schedule

import (
	"fmt"
	"strings"
	"time"
)

// Error is a schedule that cannot run. It prints the lists around the offending
// actions, one rank a column, with those actions in brackets.
type Error struct {
	Schedule *Schedule
	// Cells are the offending actions.
	Cells  []Cell
	Reason string
}

// Cell is the action at an index of a rank's list. An index past the end stands
// for what is missing there.
type Cell struct{ Rank, Index int }

func (e *Error) Error() string {
	c := e.Cells[0]
	r := e.Schedule.Ranks[c.Rank]
	word := "end"
	if c.Index < len(r.Actions) {
		word = r.Actions[c.Index].String()
	}
	grid := strings.TrimSuffix(e.Schedule.window(e.Cells), "\n")
	return fmt.Sprintf("schedule %s: rank %s, %d: %s: %s\n%s", e.Schedule.Name, r.Name, c.Index, word, e.Reason, grid)
}

// Validate proves that the schedule runs to its end: every rank does each of
// its actions exactly once, none waits for what comes too late, and no rank has
// more than MaxLive micro-batches at once. Errors about actions are [*Error].
func (s *Schedule) Validate() error {
	x, err := newIndex(s)
	if err != nil {
		return err
	}
	for r := range s.Ranks {
		if err := x.checkList(r); err != nil {
			return err
		}
	}
	if _, err := x.play(func(Action) time.Duration { return 1 }, 0); err != nil {
		return err
	}
	return s.checkLive()
}

// checkShape checks what is no rank's list.
func (s *Schedule) checkShape() error {
	fail := func(format string, args ...any) error {
		return fmt.Errorf("schedule %s: %s", s.Name, fmt.Sprintf(format, args...))
	}
	switch {
	case !isWord(s.Name):
		return fmt.Errorf("schedule name %q is not one word", s.Name)
	case s.Layers < 1 || s.MicroBatches < 1 || s.Steps < 1 || s.MaxLive < 0:
		return fail("layers %d, micro-batches %d and steps %d must be at least 1, max-live %d at least 0",
			s.Layers, s.MicroBatches, s.Steps, s.MaxLive)
	case len(s.Sparse) != s.Layers:
		return fail("Sparse speaks of %d layers, the model has %d", len(s.Sparse), s.Layers)
	}
	names := map[string]bool{}
	for i := range s.Ranks {
		r := &s.Ranks[i]
		if !isWord(r.Name) || names[r.Name] {
			return fail("rank name %q is not one word, or is there twice", r.Name)
		}
		names[r.Name] = true
		if err := s.checkOwns(r.Owns); err != nil {
			return fail("rank %s: %v", r.Name, err)
		}
	}
	return nil
}

func (s *Schedule) checkOwns(owns []Stages) error {
	for _, o := range owns {
		if err := o.check(); err != nil {
			return fmt.Errorf("stages %v: %w", o, err)
		}
		if o.Last >= s.Layers {
			return fmt.Errorf("stages %v: the model has %d layers", o, s.Layers)
		}
		for l := o.First; o.Part == Experts && l <= o.Last; l += o.Stride {
			if !s.Sparse[l] {
				return fmt.Errorf("stages %v: layer %d is dense", o, l)
			}
		}
	}
	return nil
}

// isWord reports whether a text format can hold the name.
func isWord(name string) bool {
	return name != "" && !strings.ContainsFunc(name, func(c rune) bool { return c <= ' ' || c == '#' || c > '~' })
}

// checkList makes sure that rank r does exactly what it owns, once.
func (x *index) checkList(r int) error {
	list := x.s.Ranks[r].Actions
	seen := make(map[Action]int, len(list))
	for i, a := range list {
		reason := x.s.outside(r, a)
		if first, twice := seen[a]; twice {
			reason = fmt.Sprintf("it is there twice, first at %d", first)
		}
		if reason != "" {
			return x.fail(reason, Cell{r, i})
		}
		seen[a] = i
	}
	for _, a := range x.work(r, len(list)) {
		if _, ok := seen[a]; !ok {
			return x.fail(fmt.Sprintf("%v is missing", a), Cell{r, len(list)})
		}
	}
	return nil
}

func (x *index) fail(reason string, cells ...Cell) error {
	return &Error{Schedule: x.s, Cells: cells, Reason: reason}
}

// outside says why a cannot be on rank r's list, or "".
func (s *Schedule) outside(r int, a Action) string {
	first, last := 1, s.Steps
	if s.Steps == 1 {
		first, last = 0, 0
	}
	switch {
	case !s.Ranks[r].owns(a.stage()):
		return fmt.Sprintf("the rank does not own %v", a.stage())
	case a.MicroBatch < 0 || a.MicroBatch >= s.MicroBatches:
		return fmt.Sprintf("micro-batch %d of %d", a.MicroBatch, s.MicroBatches)
	case a.Step < first || a.Step > last:
		return fmt.Sprintf("step %d, want %d to %d", a.Step, first, last)
	case strings.IndexByte("FBW", byte(a.Direction)) < 0:
		return fmt.Sprintf("direction %v", a.Direction)
	}
	return ""
}

// work lists what rank r must do. It stops at one more than n: then something
// is missing from a list of n, however large the numbers in the header are.
func (x *index) work(r, n int) []Action {
	var list []Action
	for _, st := range x.chain {
		if !x.s.Ranks[r].owns(st) {
			continue
		}
		for step := 1; step <= x.s.Steps; step++ {
			for i := range x.s.MicroBatches {
				for _, d := range x.directions() {
					if len(list) > n {
						return list
					}
					a := x.s.forward(step, st.part, st.layer, i)
					a.Direction = d
					list = append(list, a)
				}
			}
		}
	}
	return list
}

// directions are the passes that the schedule makes: what occurs on one rank is
// due on all.
func (x *index) directions() []Direction {
	switch {
	case x.s.any(func(a Action) bool { return a.Direction == Weight }):
		return []Direction{Forward, Backward, Weight}
	case x.backward:
		return []Direction{Forward, Backward}
	}
	return []Direction{Forward}
}

// checkLive compares the peaks with MaxLive.
func (s *Schedule) checkLive() error {
	for r := range s.Ranks {
		live, at := s.peakLive(r)
		if s.MaxLive > 0 && live > s.MaxLive {
			return &Error{s, []Cell{{r, at}}, fmt.Sprintf("%d micro-batches are live, max-live is %d", live, s.MaxLive)}
		}
	}
	return nil
}

// PeakLive returns, for each rank, the most micro-batches that it has begun and
// not ended at once: what it must have memory for. In serving a micro-batch is
// live on a rank from its first action of a step to its last. With backward
// actions each stage counts by itself, from forward to the last gradient, since
// each keeps its activations.
func (s *Schedule) PeakLive() []int {
	peaks := make([]int, len(s.Ranks))
	for r := range peaks {
		peaks[r], _ = s.peakLive(r)
	}
	return peaks
}

// peakLive also returns where in the list the peak is first reached.
func (s *Schedule) peakLive(r int) (peak, at int) {
	stages := s.any(func(a Action) bool { return a.Direction != Forward })
	key := func(a Action) Action {
		if a.Direction = 0; !stages {
			a.Part, a.Layer = 0, 0
		}
		return a
	}
	list := s.Ranks[r].Actions
	last := map[Action]int{}
	for i, a := range list {
		last[key(a)] = i
	}
	live := map[Action]bool{}
	for i, a := range list {
		live[key(a)] = true
		if len(live) > peak {
			peak, at = len(live), i
		}
		if last[key(a)] == i {
			delete(live, key(a))
		}
	}
	return peak, at
}
