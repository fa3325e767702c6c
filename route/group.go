package route

import "fmt"

// Pairs are the pairs of one message as the expert node reads them: ordered by
// expert, then by row.
type Pairs struct {
	// Rows is the number of rows that travelled.
	Rows   int
	Row    []int32
	Expert []int32
	// Rank says how many experts the row likes better.
	Rank []int32
}

// Run is a piece of a message's results: Rows consecutive rows of the grouped
// matrix, from row From.
type Run struct{ From, Rows int }

// Grouping lays the pairs of several messages out as one matrix, expert after
// expert, and within an expert message after message.
type Grouping struct {
	// Offsets[i] … Offsets[i+1]-1 are the rows of the node's i-th expert.
	Offsets []int32
	// Dst[m][i] is the grouped row of pair i of message m.
	Dst [][]int32
	// Runs[m] are message m's results in the order of its pairs.
	Runs [][]Run
}

// Grouper groups messages for a node. It keeps its memory between calls: a
// result is valid until the next call.
type Grouper struct {
	index map[int32]int // expert → place among the node's experts
	g     Grouping
	next  []int32
}

// NewGrouper returns a Grouper for a node that holds the given experts.
func NewGrouper(experts []int) *Grouper {
	g := &Grouper{index: make(map[int32]int, len(experts)), next: make([]int32, len(experts))}
	for i, e := range experts {
		g.index[int32(e)] = i
	}
	g.g.Offsets = make([]int32, len(experts)+1)
	return g
}

// Check reports a pair that the node cannot serve: an expert that it does not
// hold, a row beyond the message's, or an order that is not by expert and row.
func (g *Grouper) Check(p Pairs) error {
	if len(p.Row) != len(p.Expert) || len(p.Row) != len(p.Rank) {
		return fmt.Errorf("%d rows, %d experts and %d ranks in the pairs of a message", len(p.Row), len(p.Expert), len(p.Rank))
	}
	for i, e := range p.Expert {
		if _, ok := g.index[e]; !ok {
			return fmt.Errorf("pair %d: expert %d is not on this node", i, e)
		}
		if p.Row[i] < 0 || int(p.Row[i]) >= p.Rows {
			return fmt.Errorf("pair %d: row %d of %d", i, p.Row[i], p.Rows)
		}
		if i > 0 && (e < p.Expert[i-1] || e == p.Expert[i-1] && p.Row[i] <= p.Row[i-1]) {
			return fmt.Errorf("pair %d: expert %d, row %d after expert %d, row %d", i, e, p.Row[i], p.Expert[i-1], p.Row[i-1])
		}
	}
	return nil
}

// Group lays checked messages out.
func (g *Grouper) Group(messages []Pairs) *Grouping {
	g.count(messages)
	g.g.Dst = resize(g.g.Dst, len(messages))
	g.g.Runs = resize(g.g.Runs, len(messages))
	copy(g.next, g.g.Offsets)
	for m, p := range messages {
		g.place(m, p)
	}
	return &g.g
}

// count sets the offsets from the number of pairs per expert.
func (g *Grouper) count(messages []Pairs) {
	clear(g.g.Offsets)
	for _, p := range messages {
		for _, e := range p.Expert {
			g.g.Offsets[g.index[e]+1]++
		}
	}
	for i := 1; i < len(g.g.Offsets); i++ {
		g.g.Offsets[i] += g.g.Offsets[i-1]
	}
}

func (g *Grouper) place(m int, p Pairs) {
	dst, runs := grow(g.g.Dst[m], 0), g.g.Runs[m][:0]
	for i, e := range p.Expert {
		at := &g.next[g.index[e]]
		if i == 0 || e != p.Expert[i-1] {
			runs = append(runs, Run{From: int(*at)})
		}
		runs[len(runs)-1].Rows++
		dst = append(dst, *at)
		*at++
	}
	g.g.Dst[m], g.g.Runs[m] = dst, runs
}

func resize[T any](s [][]T, n int) [][]T {
	for len(s) < n {
		s = append(s, nil)
	}
	return s[:n]
}
