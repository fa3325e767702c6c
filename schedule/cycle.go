package schedule

import (
	"fmt"
	"slices"
)

// Cycle splits what a rank does for ever into a prologue, which it does once, and
// a cycle, which it repeats with all steps risen by 1 each time:
//
//	prologue  1:A0F0 1:A0F1 1:A1F0 1:A1F1
//	cycle     1:HF0 2:A0F0 1:HF1 2:A0F1 2:A1F0 2:A1F1
//	again     2:HF0 3:A0F0 2:HF1 3:A0F1 3:A1F0 3:A1F1
//
// The cycle begins with the first head, where a step ends; on a rank without one
// it begins with step 2. It is proved on the schedule's own list, which must have
// three steps or more: prologue, cycle, cycle and so on, without the actions of
// steps that the schedule has not got, are that list to its end.
//
// A schedule of one step has no prologue, and its list is the cycle: training
// repeats it for every batch. The schedule must be valid.
func (s *Schedule) Cycle(rank int) (prologue, cycle []Action, err error) {
	list := s.Ranks[rank].Actions
	switch {
	case s.Steps == 1:
		return nil, list, nil
	case s.Steps == 2:
		return nil, nil, fmt.Errorf("schedule %s has 2 steps: from 3 on they show how they repeat", s.Name)
	}
	begins := func(step int) int {
		return slices.IndexFunc(list, func(a Action) bool { return a.Step == step })
	}
	start := slices.IndexFunc(list, func(a Action) bool { return a.Part == Head })
	if start < 0 {
		start = begins(2)
	}
	if n := begins(3) - begins(2); start >= 0 && n > 0 && start+n <= len(list) {
		prologue, cycle = list[:start], list[start:start+n]
		return prologue, cycle, s.checkCycle(rank, start+n, cycle)
	}
	return nil, nil, fmt.Errorf("schedule %s: rank %s has no cycle: its step 3 does not begin after step 2", s.Name,
		s.Ranks[rank].Name)
}

// checkCycle compares the rank's list from index i on with repetitions of the
// cycle that ends there.
func (s *Schedule) checkCycle(rank, i int, cycle []Action) error {
	list := s.Ranks[rank].Actions
	for turn := 1; turn <= s.Steps; turn++ {
		for _, a := range cycle {
			if a.Step += turn; a.Step > s.Steps {
				continue
			}
			if i == len(list) || list[i] != a {
				return &Error{s, []Cell{{rank, i}},
					fmt.Sprintf("the steps do not repeat: want %v here, as %v came a step before", a, a.At(a.Step-1))}
			}
			i++
		}
	}
	if i < len(list) {
		return &Error{s, []Cell{{rank, i}}, "the steps do not repeat: it has no counterpart a step before"}
	}
	return nil
}
