package schedule

import (
	"fmt"
	"slices"
)

// Transfer is rows that travel: what Producer made on rank From is needed by
// Consumer on rank To. Ranks are indices into [Schedule.Ranks]. A rank that
// feeds itself makes no transfer.
type Transfer struct {
	Producer, Consumer Action
	From, To           int
}

// String prints as "A3F2@0 -> E3F2@4".
func (t Transfer) String() string {
	return fmt.Sprintf("%v@%d -> %v@%d", t.Producer, t.From, t.Consumer, t.To)
}

// Transfers derives what is sent and received, in the order in which the
// consumers list it.
func (s *Schedule) Transfers() ([]Transfer, error) {
	x, err := newIndex(s)
	if err != nil {
		return nil, err
	}
	var list []Transfer
	for r := range s.Ranks {
		for _, a := range s.Ranks[r].Actions {
			for _, n := range x.needs(r, a) {
				if n.rank != r {
					list = append(list, Transfer{n.action, a, n.rank, r})
				}
			}
		}
	}
	return list, nil
}

// place is an action on a rank.
type place struct {
	rank   int
	action Action
}

// index is what follows from a schedule's shape: the way of a row, and who owns
// each stop.
type index struct {
	s *Schedule
	// chain is A0 E0 A1 … H without the experts of dense layers.
	chain    []stage
	position map[stage]int
	// owners lists, for each stage of the chain, ranks in rising order.
	owners   [][]int
	backward bool
}

// newIndex checks the schedule's shape on the way.
func newIndex(s *Schedule) (*index, error) {
	if err := s.checkShape(); err != nil {
		return nil, err
	}
	x := &index{s: s, chain: chain(s.Sparse), position: map[stage]int{}}
	for k, st := range x.chain {
		x.position[st] = k
		var owners []int
		for r := range s.Ranks {
			if s.Ranks[r].owns(st) {
				owners = append(owners, r)
			}
		}
		if len(owners) == 0 {
			return nil, fmt.Errorf("schedule %s: no rank owns %v", s.Name, st)
		}
		x.owners = append(x.owners, owners)
	}
	x.backward = s.any(func(a Action) bool { return a.Direction != Forward })
	return x, x.checkPeers()
}

// chain is the way of a row through the model.
func chain(sparse []bool) []stage {
	var way []stage
	for l, experts := range sparse {
		way = append(way, stage{Attention, l})
		if experts {
			way = append(way, stage{Experts, l})
		}
	}
	return append(way, stage{part: Head})
}

// any reports whether some action of some rank satisfies f.
func (s *Schedule) any(f func(Action) bool) bool {
	return slices.ContainsFunc(s.Ranks, func(r Rank) bool { return slices.ContainsFunc(r.Actions, f) })
}

// manyToMany reports whether rows are routed between two stages, so that every
// owner of the one feeds every owner of the other. Otherwise they stay with
// their data-parallel index.
func manyToMany(a, b stage) bool { return a.part == Experts || b.part == Experts }

// checkPeers makes sure that where rows stay with their index, there is one. In
// training nothing goes from the head to the next step's first layer.
func (x *index) checkPeers() error {
	for k := range x.chain {
		next := (k + 1) % len(x.chain)
		if next == 0 && x.backward {
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

// needs lists what must have ended before rank r may begin a, which it owns.
func (x *index) needs(r int, a Action) []place {
	k := x.position[a.stage()]
	switch a.Direction {
	case Backward:
		forward := a
		forward.Direction = Forward
		list := []place{{r, forward}}
		if k+1 < len(x.chain) {
			list = x.feeders(list, r, k, k+1, a)
		}
		return list
	case Weight:
		a.Direction = Backward
		return []place{{r, a}}
	}
	switch {
	case k > 0:
		return x.feeders(nil, r, k, k-1, a)
	case a.Step > 1 && !x.backward: // the token that the last step chose
		return x.feeders(nil, r, k, len(x.chain)-1, a.At(a.Step-1))
	}
	return nil
}

// feeders appends the owners of stage `from` that feed rank r's stage k, doing
// what a does there.
func (x *index) feeders(list []place, r, k, from int, a Action) []place {
	a.Part, a.Layer = x.chain[from].part, x.chain[from].layer
	owners := x.owners[from]
	if !manyToMany(x.chain[k], x.chain[from]) {
		i, _ := slices.BinarySearch(x.owners[k], r)
		owners = owners[i : i+1]
	}
	for _, o := range owners {
		list = append(list, place{o, a})
	}
	return list
}
