package route

import (
	"encoding/binary"
	"fmt"
	"slices"
)

// placeSize is the bytes of a result's place.
const placeSize = 4

// PlacesSize is the bytes of the places of n results.
func PlacesSize(n int) int { return n * placeSize }

// PutPlaces encodes the places of results into b, which has PlacesSize bytes.
func PutPlaces(b []byte, places []int32) {
	for i, p := range places {
		binary.LittleEndian.PutUint32(b[placeSize*i:], uint32(p))
	}
}

// Returns holds the results of a micro-batch against what was asked of each node:
// each result says by its place which choice it is of, or, where a node returns the
// sum of a row's results, which is the best of the choices that it is of. It keeps
// its memory between layers.
type Returns struct {
	topK    int
	combine Combine
	rows    int
	packets []Packet
	// node is, by choice, the node that it was asked of.
	node []int32
	// first is, by node, the rows of the packets before its own, and got, by slot,
	// whether there is a result.
	first []int
	got   []bool
	slots []int32
}

// NewReturns returns the Returns of micro-batches whose rows choose topK experts.
func NewReturns(topK int, combine Combine) *Returns { return &Returns{topK: topK, combine: combine} }

// Expect says what has been asked of the nodes for a micro-batch of so many rows. The
// packets are read until the results are there.
func (r *Returns) Expect(packets []Packet, rows int) {
	r.rows, r.packets = rows, packets
	r.node, r.first = grow(r.node, rows*r.topK), r.first[:0]
	total := 0
	for n, p := range packets {
		r.first = append(r.first, total)
		total += len(p.Rows)
		for _, c := range p.Choice {
			r.node[c] = int32(n)
		}
	}
	if r.combine == ByExpert {
		total = rows * r.topK
	}
	r.got = slices.Grow(r.got[:0], total)[:total]
	clear(r.got)
}

// Asked is how many results a node owes.
func (r *Returns) Asked(node int) int {
	return Wire{Combine: r.combine}.Results(len(r.packets[node].Rows), len(r.packets[node].Row))
}

// Take reads the places of a node's results, all that it owes, and returns the slot
// of each in the order of the results: its choice, or, where nodes return sums, its
// place among the rows of all packets. An error tells which result was not asked for,
// or comes twice.
func (r *Returns) Take(node, results int, places []byte) ([]int32, error) {
	if asked := r.Asked(node); results != asked {
		return nil, fmt.Errorf("%d results, %d were asked for", results, asked)
	}
	if len(places) != PlacesSize(results) {
		return nil, fmt.Errorf("%d bytes of places, want %d for %d results", len(places), PlacesSize(results), results)
	}
	r.slots = grow(r.slots, results)
	for i := range r.slots {
		place := binary.LittleEndian.Uint32(places[placeSize*i:])
		if int64(place) >= int64(r.rows*r.topK) {
			return nil, fmt.Errorf("result %d is for place %d, the micro-batch has %d", i, place, r.rows*r.topK)
		}
		if r.node[place] != int32(node) {
			return nil, fmt.Errorf("result %d is for place %d, which was asked of expert node %d and comes from %d",
				i, place, r.node[place], node)
		}
		slot := r.slot(node, int(place))
		if r.got[slot] {
			return nil, fmt.Errorf("result %d is for place %d, as is one before it", i, place)
		}
		r.slots[i], r.got[slot] = int32(slot), true
	}
	return r.slots, nil
}

// slot is where a node's result goes.
func (r *Returns) slot(node, place int) int {
	if r.combine == ByExpert {
		return place
	}
	i, _ := slices.BinarySearch(r.packets[node].Rows, int32(place/r.topK))
	return r.first[node] + i
}
