package schedule

import (
	"fmt"
	"math"
	"slices"
)

// MaxActions bounds the actions of all ranks of a schedule together, and the
// stages that they own. An action takes 40 bytes, and some 150 more while it is
// dry-run.
const MaxActions = 1 << 20

// index is what follows from the shape of a schedule: the way of a row through
// the model, the owners of each stage, and a number for each action that is due.
// With those numbers proofs and dry-runs take time in proportion to the number
// of actions.
type index struct {
	s *Schedule
	// chain is the way of a row: A0 E0 A1 … H, without the experts of dense
	// layers. A position is an index into it.
	chain []stage
	// attention and experts are the positions of a layer's two stages; a dense
	// layer's second is −1.
	attention, experts []int
	// owners lists the ranks that own the stage at each position, in rising
	// order.
	owners [][]int
	// owned counts the stages of each rank.
	owned []int
	// passes are the directions that occur on some rank; all ranks must make
	// them.
	passes []Direction
	// rounds is Steps · MicroBatches: how often a rank does one direction of one
	// stage.
	rounds int
	// base is, for each position, the number of its first action.
	base []int
}

// newIndex checks the schedule's shape, and makes its index.
func newIndex(s *Schedule) (*index, error) {
	if err := s.checkShape(); err != nil {
		return nil, err
	}
	x := &index{s: s, owned: make([]int, len(s.Ranks)), passes: s.passes()}
	x.makeChain()
	x.findOwners()
	for k, owners := range x.owners {
		if len(owners) == 0 {
			return nil, fmt.Errorf("schedule %s: no rank owns %v", s.Name, x.chain[k])
		}
	}
	return x, x.checkPeers()
}

// makeChain lays out the way of a row.
func (x *index) makeChain() {
	for l, sparse := range x.s.Sparse {
		x.attention = append(x.attention, len(x.chain))
		x.chain = append(x.chain, stage{Attention, l})
		at := -1
		if sparse {
			at = len(x.chain)
			x.chain = append(x.chain, stage{Experts, l})
		}
		x.experts = append(x.experts, at)
	}
	x.chain = append(x.chain, stage{part: Head})
}

// findOwners goes through what the ranks own. A stage that a rank names twice is
// owned once.
func (x *index) findOwners() {
	x.owners = make([][]int, len(x.chain))
	for r := range x.s.Ranks {
		for _, o := range x.s.Ranks[r].Owns {
			for l := o.First; l <= o.Last; l += o.Stride {
				k := x.position(stage{o.Part, l})
				if n := len(x.owners[k]); n > 0 && x.owners[k][n-1] == r {
					continue
				}
				x.owners[k] = append(x.owners[k], r)
				x.owned[r]++
			}
		}
	}
}

// position is where a stage stands in the chain, or −1.
func (x *index) position(st stage) int {
	switch {
	case st.part == Head && st.layer == 0:
		return len(x.chain) - 1
	case st.layer < 0 || st.layer >= x.s.Layers:
		return -1
	case st.part == Attention:
		return x.attention[st.layer]
	case st.part == Experts:
		return x.experts[st.layer]
	}
	return -1
}

// passes returns the directions that some action of some rank has. Each pass
// needs those before it in the table, so they are its beginning.
func (s *Schedule) passes() []Direction {
	last := 0
	for r := range s.Ranks {
		for _, a := range s.Ranks[r].Actions {
			last = max(last, find(directions, byte(a.Direction)))
		}
	}
	var list []Direction
	for _, d := range directions[:last+1] {
		list = append(list, Direction(d.Byte))
	}
	return list
}

// trains reports whether the schedule has backward passes.
func (x *index) trains() bool { return len(x.passes) > 1 }

// manyToMany reports whether rows are routed between two stages, so that every
// owner of the one feeds every owner of the other. Otherwise the i-th owner of
// the one feeds the i-th of the other.
func manyToMany(a, b stage) bool { return a.part == Experts || b.part == Experts }

// checkPeers makes sure that where the i-th owner feeds the i-th, both are
// there. In training nothing goes from the head to the next step's first layer.
func (x *index) checkPeers() error {
	for k := range x.chain {
		next := (k + 1) % len(x.chain)
		if next == 0 && x.trains() {
			break
		}
		a, b := x.chain[k], x.chain[next]
		if !manyToMany(a, b) && len(x.owners[k]) != len(x.owners[next]) {
			return fmt.Errorf("schedule %s: %d ranks own %v and %d own %v, and rows stay with their index between them",
				x.s.Name, len(x.owners[k]), a, len(x.owners[next]), b)
		}
	}
	return nil
}

// number gives every action that is due a number, from 0 to count()−1. No
// rank's list may be shorter than what is due, so that the lists bound the
// numbers.
func (x *index) number() {
	x.rounds = x.s.Steps * x.s.MicroBatches
	n := 0
	for _, owners := range x.owners {
		x.base = append(x.base, n)
		n += len(owners) * len(x.passes) * x.rounds
	}
	x.base = append(x.base, n)
}

// count is the number of actions that are due on all ranks.
func (x *index) count() int { return x.base[len(x.chain)] }

// slots is the number of actions that are due without regard to ranks: see slot.
func (x *index) slots() int { return len(x.chain) * len(x.passes) * x.rounds }

// round numbers the action among those of its stage on one rank.
func (x *index) round(a Action) int {
	pass := find(directions, byte(a.Direction))
	return pass*x.rounds + (max(a.Step, 1)-1)*x.s.MicroBatches + a.MicroBatch
}

// slot is the number of an action at a position, which all owners of the stage
// share.
func (x *index) slot(k int, a Action) int { return k*len(x.passes)*x.rounds + x.round(a) }

// id is the number of an action at a position on the i-th owner of its stage.
func (x *index) id(k, i int, a Action) int {
	return x.base[k] + i*len(x.passes)*x.rounds + x.round(a)
}

// owner returns r's index among the owners of the stage at position k.
func (x *index) owner(k, r int) (i int, owns bool) {
	if k < 0 {
		return 0, false
	}
	return slices.BinarySearch(x.owners[k], r)
}

// due is the number of actions that rank r owes; it saturates.
func (x *index) due(r int) int {
	n := int64(x.owned[r]) * int64(len(x.passes))
	for _, factor := range []int{x.s.Steps, x.s.MicroBatches} {
		if n > 0 && int64(factor) > math.MaxInt32/n {
			return math.MaxInt32
		}
		n *= int64(factor)
	}
	return int(n)
}
