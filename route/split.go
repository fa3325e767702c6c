package route

import (
	"encoding/binary"
	"fmt"
)

// Packet is what one node receives of a micro-batch: distinct rows, and pairs
// of a row and an expert. Pairs are ordered by expert, then by row: the order in
// which the node returns its results.
type Packet struct {
	// Rows are the micro-batch's rows that travel, ascending.
	Rows []int32
	// Row, Expert and Rank describe pair i: the place in Rows, the expert, and how
	// many experts the row likes better.
	Row    []int32
	Expert []int32
	Rank   []int32
	// Choice is pair i's place in the micro-batch's list of choices,
	// row·topK + rank.
	Choice []int32
}

// Splitter splits micro-batches by a placement. It keeps its memory between
// calls: a result is valid until the next call.
type Splitter struct {
	placement Placement
	topK      int
	packets   []Packet
	// perExpert chains the choices of one expert: first and last choice, and the
	// next choice of each.
	first, last, next []int32
	// turn is, per row, what picks one of several nodes of an expert.
	turn []int32
	// seen is, per node, the last row added to its packet plus one.
	seen []int32
	// local is, per node and row of the micro-batch, the place in Rows.
	local [][]int32
}

// NewSplitter returns a Splitter for rows that each choose topK experts.
func NewSplitter(p Placement, topK int) *Splitter {
	return &Splitter{
		placement: p,
		topK:      topK,
		packets:   make([]Packet, p.Nodes),
		first:     make([]int32, len(p.Of)),
		last:      make([]int32, len(p.Of)),
		seen:      make([]int32, p.Nodes),
		local:     make([][]int32, p.Nodes),
	}
}

// Split reads the choices of rows rows, topK little-endian int32 each, as
// kernel's TopK writes them, and returns one packet per node.
func (s *Splitter) Split(choices []byte, rows int) ([]Packet, error) {
	if want := rows * s.topK * 4; len(choices) < want {
		return nil, fmt.Errorf("splitting %d rows: %d bytes of choices, want %d", rows, len(choices), want)
	}
	s.reset(rows)
	choice := func(i int) int { return int(int32(binary.LittleEndian.Uint32(choices[4*i:]))) }
	for i := range rows * s.topK {
		e := choice(i)
		if e < 0 || e >= len(s.placement.Of) {
			return nil, fmt.Errorf("splitting %d rows: row %d chose expert %d of %d", rows, i/s.topK, e, len(s.placement.Of))
		}
		s.turn[i/s.topK] += int32(e)
	}
	for i := range rows * s.topK {
		s.add(int32(i), choice(i))
	}
	for e := range s.placement.Of {
		s.emit(e)
	}
	return s.packets, nil
}

func (s *Splitter) reset(rows int) {
	for n := range s.packets {
		p := &s.packets[n]
		p.Rows, p.Row, p.Expert = grow(p.Rows, 0), grow(p.Row, 0), grow(p.Expert, 0)
		p.Rank, p.Choice = grow(p.Rank, 0), grow(p.Choice, 0)
		s.seen[n] = 0
		s.local[n] = grow(s.local[n], rows)
	}
	for e := range s.first {
		s.first[e] = -1
	}
	s.next = grow(s.next, rows*s.topK)
	s.turn = grow(s.turn, rows)
	clear(s.turn)
}

// add appends choice i to its expert's chain, and its row to the node's packet.
func (s *Splitter) add(i int32, e int) {
	s.next[i] = -1
	if s.first[e] < 0 {
		s.first[e] = i
	} else {
		s.next[s.last[e]] = i
	}
	s.last[e] = i
	row := i / int32(s.topK)
	n := s.node(e, row)
	if s.seen[n] != row+1 {
		s.seen[n] = row + 1
		s.local[n][row] = int32(len(s.packets[n].Rows))
		s.packets[n].Rows = append(s.packets[n].Rows, row)
	}
}

// node picks one of the nodes of an expert, by all that the row has chosen: not
// by its place in the micro-batch, on which sums per node would depend then.
func (s *Splitter) node(e int, row int32) int {
	nodes := s.placement.Of[e]
	return nodes[int(s.turn[row])%len(nodes)]
}

// emit adds an expert's choices to their nodes' packets.
func (s *Splitter) emit(e int) {
	for i := s.first[e]; i >= 0; i = s.next[i] {
		row := i / int32(s.topK)
		n := s.node(e, row)
		p := &s.packets[n]
		p.Row = append(p.Row, s.local[n][row])
		p.Expert = append(p.Expert, int32(e))
		p.Rank = append(p.Rank, i%int32(s.topK))
		p.Choice = append(p.Choice, i)
	}
}

// grow returns n elements, never nil: to kernels, nil rows mean all rows.
func grow(s []int32, n int) []int32 {
	if s == nil || cap(s) < n {
		return make([]int32, n)
	}
	return s[:n]
}
