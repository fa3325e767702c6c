package schedule

import (
	"fmt"
	"iter"
)

// Transfer is rows that travel: Consumer on rank To needs what Producer made on
// rank From. Ranks are indices into [Schedule.Ranks]. A rank that feeds itself
// makes no transfer.
type Transfer struct {
	Producer, Consumer Action
	From, To           int
}

// String prints as "A3F2@0 -> E3F2@4".
func (t Transfer) String() string {
	return fmt.Sprintf("%v@%d -> %v@%d", t.Producer, t.From, t.Consumer, t.To)
}

// Transfers derives what is sent and received from a schedule, which it
// validates first. They come in the order in which the consumers list them.
func (s *Schedule) Transfers() (iter.Seq[Transfer], error) {
	x, err := s.validate()
	if err != nil {
		return nil, err
	}
	return func(yield func(Transfer) bool) {
		for r := range s.Ranks {
			for _, a := range s.Ranks[r].Actions {
				for t := range x.transfersTo(r, a) {
					if !yield(t) {
						return
					}
				}
			}
		}
	}, nil
}

// transfersTo are the transfers that action a of rank r needs.
func (x *index) transfersTo(r int, a Action) iter.Seq[Transfer] {
	return func(yield func(Transfer) bool) {
		for _, n := range x.appendNeeds(nil, r, a) {
			for _, from := range x.ranks(n) {
				if from != r && !yield(Transfer{n.action, a, from, r}) {
					return
				}
			}
		}
	}
}

// countTransfers is the number of transfers, without walking them: M senders and
// N receivers have M·N for each action.
func (x *index) countTransfers() int {
	count := 0
	var needs []need
	for r := range x.s.Ranks {
		for _, a := range x.s.Ranks[r].Actions {
			needs = x.appendNeeds(needs[:0], r, a)
			for _, n := range needs {
				from := x.ranks(n)
				count += len(from)
				if own, owns := x.owner(n.position, r); owns && (n.owner < 0 || n.owner == own) {
					count--
				}
			}
		}
	}
	return count
}

// need is an action that must have ended, on one rank or on several.
type need struct {
	position int
	action   Action
	// owner is the index of one owner of the stage; −1: all of them.
	owner int
}

// ranks are those on which a need must have ended.
func (x *index) ranks(n need) []int {
	owners := x.owners[n.position]
	if n.owner < 0 {
		return owners
	}
	return owners[n.owner : n.owner+1]
}

// appendNeeds appends to a list what must have ended before rank r may begin a,
// whose stage it owns.
func (x *index) appendNeeds(list []need, r int, a Action) []need {
	k := x.position(a.stage())
	i, _ := x.owner(k, r)
	switch a.Direction {
	case Backward:
		forward := a
		forward.Direction = Forward
		list = append(list, need{k, forward, i})
		if k+1 < len(x.chain) {
			list = append(list, x.feed(k, i, k+1, a))
		}
		return list
	case Weight:
		a.Direction = Backward
		return append(list, need{k, a, i})
	}
	switch {
	case k > 0:
		return append(list, x.feed(k, i, k-1, a))
	case a.Step > 1 && !x.trains(): // the token that the last step chose
		return append(list, x.feed(k, i, len(x.chain)-1, a.At(a.Step-1)))
	}
	return list
}

// feed is what the stage at position `from` must have done for the i-th owner of
// the stage at position k: the same as a, at that stage.
func (x *index) feed(k, i, from int, a Action) need {
	a.Part, a.Layer = x.chain[from].part, x.chain[from].layer
	if manyToMany(x.chain[k], x.chain[from]) {
		i = -1
	}
	return need{from, a, i}
}
