package m2n

import (
	"fmt"
	"time"

	"github.com/tandem-moe/tandem/m2n/internal/wire"
)

// arrival is a message in a slot.
type arrival struct {
	f     wire.Frame
	slot  int
	began time.Time
}

// sequence puts messages in order that come by several ways: those that come
// early wait for the ones before them. Its owner calls it one at a time.
type reorderBuffer struct {
	window uint64 // how many messages a peer can have sent beyond the last in order
	last   uint64 // number of the last message in order
	early  map[uint64]arrival
}

// take delivers a message in its turn, and those that waited for it. An error says
// that the peer cannot have sent it now.
func (s *reorderBuffer) accept(a arrival, deliver func(arrival)) error {
	if err := s.check(a.f.Number); err != nil {
		return err
	}
	if s.early == nil {
		s.early = make(map[uint64]arrival)
	}
	if a.f.Number > s.last+1 {
		s.early[a.f.Number] = a
		return nil
	}
	for ok := true; ok; a, ok = s.popNext() {
		s.last++
		deliver(a)
	}
	return nil
}

func (s *reorderBuffer) popNext() (arrival, bool) {
	a, ok := s.early[s.last+1]
	delete(s.early, s.last+1)
	return a, ok
}

// drop gives back the slots of messages that waited in vain.
func (s *reorderBuffer) discard(from *receiveWindow) {
	for _, a := range s.early {
		from.free(a.slot)
	}
	s.early = nil
}

// check tells whether a message of that number can come now.
func (s *reorderBuffer) check(number uint64) error {
	_, twice := s.early[number]
	if beyond := number - s.last; beyond == 0 || beyond > s.window || twice {
		return fmt.Errorf("%w: it is message %d, the last one was %d, and %d may be under way", ErrBadFrame, number, s.last, s.window)
	}
	return nil
}
