package route

import (
	"fmt"
	"slices"
)

// Pairs are the pairs of one message as the expert node reads them: ordered by
// expert, then by row.
type Pairs struct {
	// Rows is the number of rows that travelled.
	Rows   int
	Row    []int32
	Expert []int32
	// Place is where the receiver of pair i's result wants it. Those of a row rise with
	// the rank of its experts: the best one has the lowest.
	Place []int32
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

// Grouper groups messages of one layer for a node. It keeps its memory between
// calls: a result is valid until the next call.
type Grouper struct {
	index []int32 // by expert: its place among the node's experts, or absent
	g     Grouping
	next  []int32
	seen  []bool // by row of a message: it has a pair
}

// absent stands for an expert that the node does not hold.
const absent = -1

// NewGrouper returns a Grouper for a node that holds the given experts of a layer,
// ascending.
func NewGrouper(experts []int) *Grouper {
	g := &Grouper{next: make([]int32, len(experts))}
	for i, e := range experts {
		for len(g.index) < e {
			g.index = append(g.index, absent)
		}
		g.index = append(g.index, int32(i))
	}
	g.g.Offsets = make([]int32, len(experts)+1)
	return g
}

// holds says whether the node has an expert.
func (g *Grouper) holds(expert int32) bool {
	return int(expert) < len(g.index) && g.index[expert] != absent
}

// Check reports a pair that the node cannot serve: an expert that it does not
// hold, a row beyond the message's, or an order that is not by expert and row; and a
// row without a pair, which would have no result.
func (g *Grouper) Check(p Pairs) error {
	if len(p.Row) != len(p.Expert) || len(p.Row) != len(p.Place) {
		return fmt.Errorf("%d rows, %d experts and %d places in the pairs of a message",
			len(p.Row), len(p.Expert), len(p.Place))
	}
	g.seen = slices.Grow(g.seen[:0], p.Rows)[:p.Rows]
	clear(g.seen)
	rows := 0
	for i, e := range p.Expert {
		if !g.holds(e) {
			return fmt.Errorf("pair %d: expert %d is not on this node", i, e)
		}
		if p.Row[i] < 0 || int(p.Row[i]) >= p.Rows {
			return fmt.Errorf("pair %d: row %d of %d", i, p.Row[i], p.Rows)
		}
		if i > 0 && (e < p.Expert[i-1] || e == p.Expert[i-1] && p.Row[i] <= p.Row[i-1]) {
			return fmt.Errorf("pair %d: expert %d, row %d after expert %d, row %d",
				i, e, p.Row[i], p.Expert[i-1], p.Row[i-1])
		}
		if !g.seen[p.Row[i]] {
			g.seen[p.Row[i]] = true
			rows++
		}
	}
	if rows < p.Rows {
		return fmt.Errorf("row %d of %d has no pair", slices.Index(g.seen, false), p.Rows)
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
