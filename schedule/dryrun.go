package schedule

import (
	"fmt"
	"slices"
	"time"
)

// Span is an action and when it ran, from the schedule's begin.
type Span struct {
	Action     Action
	Start, End time.Duration
}

// RankTimeline is what a rank did.
type RankTimeline struct {
	Name  string
	Spans []Span
	// Busy is the time spent in actions.
	Busy time.Duration
	// Bubble is the share of the makespan that was not: 1 − Busy/Makespan.
	Bubble float64
}

// Timeline is a schedule with times: dry-run, simulated or recorded.
type Timeline struct {
	Name     string
	Ranks    []RankTimeline
	Makespan time.Duration
}

// Find returns when a rank ran an action.
func (t *Timeline) Find(rank int, a Action) (Span, bool) {
	spans := t.Ranks[rank].Spans
	i := slices.IndexFunc(spans, func(s Span) bool { return s.Action == a })
	if i < 0 {
		return Span{}, false
	}
	return spans[i], true
}

// DryRun times a schedule: every rank runs its list in order, and each action
// begins as soon as the rank is free and what it needs has arrived, transfer
// after it was made (at once on the same rank). Transfers do not queue: that is
// the paper's T_c < T_f, and the simulator's to relax. A schedule that stops on
// the way is an [*Error].
func DryRun(s *Schedule, durations func(Action) time.Duration, transfer time.Duration) (*Timeline, error) {
	x, err := newIndex(s)
	if err != nil {
		return nil, err
	}
	if transfer < 0 {
		return nil, fmt.Errorf("schedule %s: a transfer takes %v", s.Name, transfer)
	}
	for r := range s.Ranks {
		if err := x.checkList(r); err != nil {
			return nil, err
		}
	}
	return x.play(durations, transfer)
}

// play runs every list as far as it goes, over and over, until all have ended
// or none moves. Ranks run in order and wait for all they need, so the outcome
// does not depend on the order in which they are visited.
func (x *index) play(durations func(Action) time.Duration, transfer time.Duration) (*Timeline, error) {
	p := player{index: x, transfer: transfer}
	for _, r := range x.s.Ranks {
		p.ends = append(p.ends, make(map[Action]time.Duration, len(r.Actions)))
		p.line.Ranks = append(p.line.Ranks, RankTimeline{Name: r.Name})
	}
	for moved := true; moved; {
		moved = false
		for r := range x.s.Ranks {
			for {
				more, err := p.advance(r, durations)
				if err != nil {
					return nil, err
				}
				if !more {
					break
				}
				moved = true
			}
		}
	}
	if err := p.stuck(); err != nil {
		return nil, err
	}
	p.line.Name = x.s.Name
	p.line.sum()
	return &p.line, nil
}

type player struct {
	*index
	transfer time.Duration
	// ends holds when each rank ended each action.
	ends []map[Action]time.Duration
	line Timeline
}

// advance runs rank r's next action where it may begin.
func (p *player) advance(r int, durations func(Action) time.Duration) (bool, error) {
	a, start, ok := p.begin(r)
	if !ok {
		return false, nil
	}
	d := durations(a)
	if d < 0 {
		return false, fmt.Errorf("schedule %s: %v takes %v", p.s.Name, a, d)
	}
	p.ends[r][a] = start + d
	t := &p.line.Ranks[r]
	t.Spans = append(t.Spans, Span{a, start, start + d})
	t.Busy += d
	return true, nil
}

// begin returns rank r's next action and when it begins, where all that it
// needs has ended.
func (p *player) begin(r int) (a Action, start time.Duration, ok bool) {
	if a, start, ok = p.next(r); !ok {
		return a, 0, false
	}
	for _, n := range p.needs(r, a) {
		end, ended := p.ends[n.rank][n.action]
		if !ended {
			return a, 0, false
		}
		if n.rank != r {
			end += p.transfer
		}
		start = max(start, end)
	}
	return a, start, true
}

// next returns rank r's next action and when the rank is free for it.
func (p *player) next(r int) (a Action, free time.Duration, ok bool) {
	spans, list := p.line.Ranks[r].Spans, p.s.Ranks[r].Actions
	if len(spans) == len(list) {
		return a, 0, false
	}
	if n := len(spans); n > 0 {
		free = spans[n-1].End
	}
	return list[len(spans)], free, true
}

// stuck reports the ranks that did not reach their end, and what the first of
// them waits for.
func (p *player) stuck() error {
	var cells []Cell
	reason := ""
	for r := range p.s.Ranks {
		a, _, more := p.next(r)
		if !more {
			continue
		}
		if reason == "" {
			reason = "deadlock: " + p.waitsFor(r, a)
		}
		cells = append(cells, Cell{r, len(p.line.Ranks[r].Spans)})
	}
	if cells == nil {
		return nil
	}
	return p.fail(reason, cells...)
}

func (p *player) waitsFor(r int, a Action) string {
	for _, n := range p.needs(r, a) {
		if _, ended := p.ends[n.rank][n.action]; ended {
			continue
		}
		if n.rank == r {
			return fmt.Sprintf("it waits for %v, which comes later on the same rank", n.action)
		}
		return fmt.Sprintf("it waits for %v of rank %s", n.action, p.s.Ranks[n.rank].Name)
	}
	panic(fmt.Sprintf("schedule: %v on rank %s waits for nothing and did not run", a, p.s.Ranks[r].Name))
}

// sum computes makespan and bubbles from the spans.
func (t *Timeline) sum() {
	for _, r := range t.Ranks {
		if n := len(r.Spans); n > 0 {
			t.Makespan = max(t.Makespan, r.Spans[n-1].End)
		}
	}
	for i := range t.Ranks {
		if r := &t.Ranks[i]; t.Makespan > 0 {
			r.Bubble = 1 - float64(r.Busy)/float64(t.Makespan)
		}
	}
}
