package schedule

import (
	"fmt"
	"math"
	"slices"
	"time"
)

// Span is an action and when it ran. Times count from the schedule's begin.
type Span struct {
	Action     Action
	Start, End time.Duration
}

// RankTimeline is what one rank did, and when.
type RankTimeline struct {
	Name  string
	Spans []Span
	// Busy is the time spent in actions.
	Busy time.Duration
	// Bubble is the share of the makespan in which the rank does nothing.
	Bubble float64
}

// Timeline is a schedule with times: dry-run, simulated or recorded.
type Timeline struct {
	Name     string
	Ranks    []RankTimeline
	Makespan time.Duration
	// Transfers is the number of messages between ranks.
	Transfers int
}

// Times are the durations of a schedule's forward actions, by their parts.
type Times struct{ Attention, Experts, Head time.Duration }

// Durations returns the duration of each action of the schedule. A backward
// action takes twice as long as its forward one, as it has twice the products;
// where the schedule splits the gradient of the weights off, each takes as long
// as the forward one.
func (s *Schedule) Durations(t Times) func(Action) time.Duration {
	both := !slices.Contains(s.passes(), Weight)
	return func(a Action) time.Duration {
		d := map[Part]time.Duration{Attention: t.Attention, Experts: t.Experts, Head: t.Head}[a.Part]
		if a.Direction == Backward && both {
			d *= 2
		}
		return d
	}
}

// DryRun times a schedule: every rank runs its list in order, and each action
// begins as soon as the rank is free and what it needs has arrived, which is
// `transfer` after it was made (at once on the same rank). Transfers do not queue
// for a link: that is the paper's condition T_c < T_f. A schedule that is not
// valid is an [*Error]; max-live is not looked at.
func DryRun(s *Schedule, durations func(Action) time.Duration, transfer time.Duration) (*Timeline, error) {
	x, err := s.prove()
	if err != nil {
		return nil, err
	}
	if transfer < 0 {
		return nil, fmt.Errorf("schedule %s: a transfer takes %v", s.Name, transfer)
	}
	line, err := x.play(durations, transfer)
	if err != nil {
		return nil, err
	}
	line.Transfers = x.countTransfers()
	return line, nil
}

// player runs all lists at once, each as far as it goes. Ranks run their actions
// in order and wait for all they need, so the outcome does not depend on which
// rank is looked at first.
type player struct {
	*index
	durations func(Action) time.Duration
	transfer  time.Duration
	line      Timeline
	// ends holds when each action ended, by id; −1: it has not.
	ends []time.Duration
	// made holds, by slot, how far the owners of a stage are with an action.
	made []progress
	// ready are ranks that may have something to do.
	ready []int
	// waits heads the lists of ranks that wait for one thing (see key); links
	// has each rank's successor in its list. Both hold a rank + 1; 0 ends a list.
	waits, links []int32
	needed       []need
}

// progress is how many owners of a stage have ended an action: the latest end,
// its rank, and the latest end on another rank.
type progress struct {
	owners        int
	rank          int
	latest, other time.Duration
}

// play runs every list to its end, or returns what keeps it from there.
func (x *index) play(durations func(Action) time.Duration, transfer time.Duration) (*Timeline, error) {
	p := player{
		index: x, durations: durations, transfer: transfer,
		ends: make([]time.Duration, x.count()), made: make([]progress, x.slots()),
		waits: make([]int32, x.slots()+x.count()), links: make([]int32, len(x.s.Ranks)),
	}
	for i := range p.ends {
		p.ends[i] = -1
	}
	for r := range x.s.Ranks {
		rank := &x.s.Ranks[r]
		p.line.Ranks = append(p.line.Ranks, RankTimeline{Name: rank.Name, Spans: make([]Span, 0, len(rank.Actions))})
		p.ready = append(p.ready, r)
	}
	for len(p.ready) > 0 {
		r := p.ready[0]
		p.ready = p.ready[1:]
		if err := p.advance(r); err != nil {
			return nil, err
		}
	}
	if err := p.stuck(); err != nil {
		return nil, err
	}
	p.line.Name = x.s.Name
	p.line.sum()
	return &p.line, nil
}

// advance runs rank r's actions until one has to wait.
func (p *player) advance(r int) error {
	for {
		a, start, ok := p.begin(r)
		if !ok {
			return nil
		}
		d := p.durations(a)
		if d < 0 {
			return fmt.Errorf("schedule %s: %v takes %v", p.s.Name, a, d)
		}
		if d > math.MaxInt64-p.transfer || start > math.MaxInt64-p.transfer-d {
			return fmt.Errorf("schedule %s: %v begins at %v, takes %v, and its rows travel for %v: no clock counts that far",
				p.s.Name, a, start, d, p.transfer)
		}
		t := &p.line.Ranks[r]
		t.Spans = append(t.Spans, Span{a, start, start + d})
		t.Busy += d
		p.end(r, a, start+d)
	}
}

// begin returns rank r's next action and when it begins. Where something that
// the action needs has not ended, the rank is listed among those that wait for it.
func (p *player) begin(r int) (a Action, start time.Duration, ok bool) {
	if a, start, ok = p.next(r); !ok {
		return a, 0, false
	}
	p.needed = p.appendNeeds(p.needed[:0], r, a)
	for _, n := range p.needed {
		at, ended := p.arrival(n, r)
		if !ended {
			key := p.key(n)
			p.links[r], p.waits[key] = p.waits[key], int32(r+1)
			return a, 0, false
		}
		start = max(start, at)
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

// key numbers a need: slots for those of all owners, ids behind them for those
// of one.
func (p *player) key(n need) int {
	if n.owner < 0 {
		return p.slot(n.position, n.action)
	}
	return p.slots() + p.id(n.position, n.owner, n.action)
}

// arrival returns when rank r has all of a need, if that is known.
func (p *player) arrival(n need, r int) (time.Duration, bool) {
	owners := p.owners[n.position]
	if n.owner >= 0 {
		end := p.ends[p.id(n.position, n.owner, n.action)]
		if end >= 0 && owners[n.owner] != r {
			end += p.transfer
		}
		return end, end >= 0
	}
	m := p.made[p.slot(n.position, n.action)]
	switch {
	case m.owners < len(owners):
		return 0, false
	case m.rank != r:
		return m.latest + p.transfer, true
	case m.owners == 1:
		return m.latest, true
	}
	return max(m.latest, m.other+p.transfer), true
}

// end notes the end of an action, and makes the ranks ready that wait for it.
func (p *player) end(r int, a Action, at time.Duration) {
	k := p.position(a.stage())
	i, _ := p.owner(k, r)
	id, slot := p.id(k, i, a), p.slot(k, a)
	p.ends[id] = at
	p.wake(p.slots() + id)
	m := &p.made[slot]
	switch {
	case m.owners == 0 || at > m.latest:
		m.other, m.latest, m.rank = m.latest, at, r
	case at > m.other:
		m.other = at
	}
	if m.owners++; m.owners == len(p.owners[k]) {
		p.wake(slot)
	}
}

// wake makes the ranks ready that wait for one thing.
func (p *player) wake(key int) {
	for next := p.waits[key]; next != 0; next = p.links[next-1] {
		p.ready = append(p.ready, int(next-1))
	}
	p.waits[key] = 0
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
	for _, n := range p.appendNeeds(nil, r, a) {
		for i, rank := range p.ranks(n) {
			switch {
			case p.ends[p.id(n.position, max(n.owner, i), n.action)] >= 0:
				continue
			case rank == r:
				return fmt.Sprintf("it waits for %v, which comes later on the same rank", n.action)
			}
			return fmt.Sprintf("it waits for %v of rank %s", n.action, p.s.Ranks[rank].Name)
		}
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
			r.Bubble = float64(t.Makespan-r.Busy) / float64(t.Makespan)
		}
	}
}
