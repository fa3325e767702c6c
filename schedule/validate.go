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

// Cell is the action at an index of a rank's list. The index behind the last
// action stands for an action that is missing.
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
// more than MaxLive micro-batches at once. Errors about actions are [*Error]. It
// takes time in proportion to the number of actions.
func (s *Schedule) Validate() error {
	_, err := s.validate()
	return err
}

// validate does so, and returns what it found out on the way.
func (s *Schedule) validate() (*index, error) {
	x, err := s.prove()
	if err != nil {
		return nil, err
	}
	if _, err := x.play(func(Action) time.Duration { return 1 }, 0); err != nil {
		return nil, err
	}
	return x, s.checkLive()
}

// prove makes sure that every rank does each of its actions exactly once: no
// list is shorter than what is due, and none has an action that is not due or
// is there already. So a list has at least as many different actions as are due,
// all of them due: it has each once.
func (s *Schedule) prove() (*index, error) {
	x, err := newIndex(s)
	if err != nil {
		return nil, err
	}
	for r := range s.Ranks {
		if n := len(s.Ranks[r].Actions); n < x.due(r) {
			return nil, x.fail(fmt.Sprintf("%v is missing", x.missing(r)), Cell{r, n})
		}
	}
	x.number()
	first := make([]int32, x.count())
	for r := range s.Ranks {
		for i, a := range s.Ranks[r].Actions {
			if reason := x.surplus(r, i, a, first); reason != "" {
				return nil, x.fail(reason, Cell{r, i})
			}
		}
	}
	return x, nil
}

// checkShape checks everything but the lists of actions.
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
	if actions, stages := s.extent(); actions > MaxActions || stages > MaxActions {
		return fail("its ranks have %d actions and own %d stages, at most %d", actions, stages, MaxActions)
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

// extent counts the actions of all ranks and the stages that they own. It stops
// where one count is above MaxActions.
func (s *Schedule) extent() (actions, stages int) {
	for i := range s.Ranks {
		actions += len(s.Ranks[i].Actions)
		for _, o := range s.Ranks[i].Owns {
			if stages > MaxActions {
				return actions, stages
			}
			stages += o.count()
		}
	}
	return actions, stages
}

// isWord reports whether a text format can hold the name.
func isWord(name string) bool {
	return name != "" && !strings.ContainsFunc(name, func(c rune) bool { return c <= ' ' || c == '#' || c > '~' })
}

func (x *index) fail(reason string, cells ...Cell) error {
	return &Error{Schedule: x.s, Cells: cells, Reason: reason}
}

// surplus says why a cannot stand at index i of rank r's list, or "". first
// holds, by id, where each action stands first, and 1.
func (x *index) surplus(r, i int, a Action, first []int32) string {
	k := x.position(a.stage())
	owner, owns := x.owner(k, r)
	if reason := x.s.outside(a); !owns {
		return fmt.Sprintf("the rank does not own %v", a.stage())
	} else if reason != "" {
		return reason
	}
	id := x.id(k, owner, a)
	if first[id] != 0 {
		return fmt.Sprintf("it is there twice, first at %d", first[id]-1)
	}
	first[id] = int32(i + 1)
	return ""
}

// outside says which number of a lies outside of the schedule's, or "".
func (s *Schedule) outside(a Action) string {
	first, last := 1, s.Steps
	if s.Steps == 1 {
		first, last = 0, 0
	}
	switch {
	case a.MicroBatch < 0 || a.MicroBatch >= s.MicroBatches:
		return fmt.Sprintf("micro-batch %d of %d", a.MicroBatch, s.MicroBatches)
	case a.Step < first || a.Step > last:
		return fmt.Sprintf("step %d, want %d to %d", a.Step, first, last)
	case find(directions, byte(a.Direction)) < 0:
		return fmt.Sprintf("direction %v", a.Direction)
	}
	return ""
}

// missing returns the first action that is due on rank r and not in its list.
// The list is shorter than what is due, so there is one among the first
// len(list)+1, however large the numbers in the schedule's header are.
func (x *index) missing(r int) Action {
	there := map[Action]bool{}
	for _, a := range x.s.Ranks[r].Actions {
		there[a] = true
	}
	for k, st := range x.chain {
		if _, owns := x.owner(k, r); !owns {
			continue
		}
		for step := 1; step <= x.s.Steps; step++ {
			for i := range x.s.MicroBatches {
				for _, d := range x.passes {
					a := x.s.forward(step, st.part, st.layer, i)
					if a.Direction = d; !there[a] {
						return a
					}
				}
			}
		}
	}
	panic(fmt.Sprintf("schedule %s: nothing is missing from the list of rank %s, which is too short", x.s.Name, x.s.Ranks[r].Name))
}

// checkLive compares the peaks with MaxLive.
func (s *Schedule) checkLive() error {
	if s.MaxLive == 0 {
		return nil
	}
	stages := len(s.passes()) > 1
	for r := range s.Ranks {
		if live, at := s.Ranks[r].peakLive(stages); live > s.MaxLive {
			return &Error{s, []Cell{{r, at}}, fmt.Sprintf("%d micro-batches are live, max-live is %d", live, s.MaxLive)}
		}
	}
	return nil
}

// PeakLive returns, for each rank, the most micro-batches that it has begun and
// not ended at once: those that it must have memory for. In serving a
// micro-batch is live on a rank from its first action of a step to its last.
// With backward actions each stage counts by itself, from forward to the last
// gradient, since each keeps its activations.
func (s *Schedule) PeakLive() []int {
	peaks, stages := make([]int, len(s.Ranks)), len(s.passes()) > 1
	for r := range peaks {
		peaks[r], _ = s.Ranks[r].peakLive(stages)
	}
	return peaks
}

// peakLive also returns where in the list the peak is first reached. stages
// tells that each stage counts by itself.
func (r *Rank) peakLive(stages bool) (peak, at int) {
	type use struct{ first, last int }
	uses := map[Action]*use{} // by micro-batch, and step and stage where they count
	order := make([]*use, len(r.Actions))
	for i, a := range r.Actions {
		if a.Direction = 0; !stages {
			a.Part, a.Layer = 0, 0
		}
		u := uses[a]
		if u == nil {
			u = &use{first: i}
			uses[a] = u
		}
		u.last, order[i] = i, u
	}
	live := 0
	for i, u := range order {
		if u.first == i {
			live++
		}
		if live > peak {
			peak, at = live, i
		}
		if u.last == i {
			live--
		}
	}
	return peak, at
}
