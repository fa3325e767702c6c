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
	// Row and Expert describe pair i: the place in Rows, and the expert.
	Row    []int32
	Expert []int32
	// Choice is where pair i's result goes, the pair's return address: its place in
	// the micro-batch's list of choices, row·topK + rank, where rank says how many
	// experts the row likes better.
	Choice []int32
}

// Splitter splits micro-batches by a placement. It keeps its memory between
// calls: a result is valid until the next call.
type Splitter struct {
	placement Placement
	topK      int
	shared    []bool // by layer: some expert lives on several nodes
	// spread says that nothing depends on which of an expert's nodes serves a row, so
	// that the splitter may spread rows by the nodes' load.
	spread  bool
	homes   []nodeOf
	packets []Packet
	// load is, per node, its pairs of the micro-batch.
	load []int32
	// expert and node are, per choice, the expert and the node that serves it.
	expert, node []int32
	// first, last and next chain the choices of one expert: its first and last
	// choice, and the next choice of each.
	first, last, next []int32
	// seen is, per node, the last row added to its packet plus one.
	seen []int32
	// local is, per node and row of the micro-batch, the place in Rows.
	local [][]int32
}

// nodeOf is, per expert of a layer, the node that holds it; several where it lives
// on several nodes.
type nodeOf []int32

const several = -1

// NewSplitter returns a Splitter for rows that each choose topK experts, and whose
// results are combined in the given way.
//
// Where an expert lives on several nodes, each result is the same on all of them.
// With [ByExpert] the one that has the fewest pairs of the micro-batch serves a row:
// results are added up in the row's own order. With [Partial] the nodes of a row's
// experts decide which results are added first, so that the row's hash picks them:
// the bits depend on the row alone. A row with one expert has nothing to add up, and
// goes where the load is lower in both cases.
func NewSplitter(p Placement, topK int, combine Combine) *Splitter {
	s := &Splitter{
		placement: p,
		topK:      topK,
		spread:    combine == ByExpert || topK == 1,
		shared:    make([]bool, len(p.Layers)),
		homes:     make([]nodeOf, len(p.Layers)),
		packets:   make([]Packet, p.Nodes),
		load:      make([]int32, p.Nodes),
		seen:      make([]int32, p.Nodes),
		local:     make([][]int32, p.Nodes),
	}
	for l, homes := range p.Layers {
		if l > 0 && same(homes, p.Layers[l-1]) {
			s.homes[l], s.shared[l] = s.homes[l-1], s.shared[l-1]
			continue
		}
		for _, nodes := range homes {
			n := int32(nodes[0])
			if len(nodes) > 1 {
				n, s.shared[l] = several, true
			}
			s.homes[l] = append(s.homes[l], n)
		}
	}
	return s
}

// ReadsGates says whether Split reads a layer's gate weights; elsewhere what it is given
// does not matter.
func (s *Splitter) ReadsGates(l int) bool { return s.shared[l] && !s.spread }

// Split reads what layer l's router has chosen for rows rows, as kernel's TopK
// writes it, topK of each for each row: choices are little-endian int32, gates
// float32. It returns one packet per node.
func (s *Splitter) Split(l int, choices, gates []byte, rows int) ([]Packet, error) {
	n := rows * s.topK
	if len(choices) < 4*n || len(gates) < 4*n {
		return nil, fmt.Errorf("splitting %d rows: %d bytes of choices and %d of gate weights, want %d",
			rows, len(choices), len(gates), 4*n)
	}
	s.reset(l, rows)
	shared, err := s.read(l, choices[:4*n])
	if err != nil {
		return nil, fmt.Errorf("splitting %d rows: %w", rows, err)
	}
	switch {
	case shared && s.spread:
		s.balance(l)
	case shared:
		s.hash(l, choices, gates)
	}
	for i := range s.node {
		s.add(int32(i))
	}
	for e := range s.first {
		s.emit(e)
	}
	return s.packets, nil
}

func (s *Splitter) reset(l, rows int) {
	n := rows * s.topK
	for i := range s.packets {
		p := &s.packets[i]
		p.Rows, p.Row, p.Expert, p.Choice = grow(p.Rows, 0), grow(p.Row, 0), grow(p.Expert, 0), grow(p.Choice, 0)
		s.local[i] = grow(s.local[i], rows)
	}
	clear(s.seen)
	clear(s.load)
	s.first, s.last = grow(s.first, len(s.homes[l])), grow(s.last, len(s.homes[l]))
	for e := range s.first {
		s.first[e] = -1
	}
	s.next, s.expert, s.node = grow(s.next, n), grow(s.expert, n), grow(s.node, n)
}

// read notes the choices, counts the pairs of nodes that have no choice, and says
// whether there are others.
func (s *Splitter) read(l int, choices []byte) (shared bool, err error) {
	homes := s.homes[l]
	for i := range s.expert {
		e := int32(binary.LittleEndian.Uint32(choices[4*i:]))
		if e < 0 || int(e) >= len(homes) {
			return false, fmt.Errorf("row %d chose expert %d of %d in layer %d", i/s.topK, e, len(homes), l)
		}
		s.expert[i], s.node[i] = e, homes[e]
		if homes[e] == several {
			shared = true
			continue
		}
		s.load[homes[e]]++
	}
	return shared, nil
}

// balance gives each choice that several nodes could serve to the one with the
// fewest pairs, after all choices that only one can serve have been counted.
func (s *Splitter) balance(l int) {
	for i, n := range s.node {
		if n != several {
			continue
		}
		nodes := s.placement.Layers[l][s.expert[i]]
		best := nodes[0]
		for _, n := range nodes[1:] {
			if s.load[n] < s.load[best] {
				best = n
			}
		}
		s.node[i] = int32(best)
		s.load[best]++
	}
}

// hash gives each choice that several nodes could serve to the one that its row's
// hash picks.
func (s *Splitter) hash(l int, choices, gates []byte) {
	homes, width := s.placement.Layers[l], 4*s.topK
	h, hashed := uint32(0), -1 // of which row
	for i, n := range s.node {
		if n != several {
			continue
		}
		if row := i / s.topK; row != hashed {
			hashed, h = row, RowHash(choices[row*width:(row+1)*width], gates[row*width:(row+1)*width])
		}
		s.node[i] = int32(homes.Pick(int(s.expert[i]), h))
	}
}

// RowHash mixes what the router has chosen for a row: its experts and their gate
// weights, as Split reads them. The weights make it differ among the many rows that
// choose the same experts. They are the same bits in every layout, as everything of a
// row.
func RowHash(choices, gates []byte) uint32 {
	h := uint64(len(choices))
	for i := 0; i < len(choices); i += 4 {
		h ^= uint64(binary.LittleEndian.Uint32(choices[i:]))<<32 | uint64(binary.LittleEndian.Uint32(gates[i:]))
		h *= 0xff51afd7ed558ccd // MurmurHash3's 64-bit finalizer
		h ^= h >> 33
	}
	h *= 0xc4ceb9fe1a85ec53
	return uint32(h >> 32)
}

// add appends choice i to its expert's chain, and its row to the node's packet.
func (s *Splitter) add(i int32) {
	e := s.expert[i]
	s.next[i] = -1
	if s.first[e] < 0 {
		s.first[e] = i
	} else {
		s.next[s.last[e]] = i
	}
	s.last[e] = i
	row, n := i/int32(s.topK), s.node[i]
	if s.seen[n] != row+1 {
		s.seen[n] = row + 1
		s.local[n][row] = int32(len(s.packets[n].Rows))
		s.packets[n].Rows = append(s.packets[n].Rows, row)
	}
}

// emit adds an expert's choices to their nodes' packets.
func (s *Splitter) emit(e int) {
	for i := s.first[e]; i >= 0; i = s.next[i] {
		row, n := i/int32(s.topK), s.node[i]
		p := &s.packets[n]
		p.Row = append(p.Row, s.local[n][row])
		p.Expert = append(p.Expert, int32(e))
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
