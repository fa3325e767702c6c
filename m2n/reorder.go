package m2n

import (
	"fmt"
	"time"

	"github.com/tandem-moe/tandem/m2n/internal/wire"
)

// arrival is a message that has come whole.
type arrival struct {
	f     wire.Frame
	slot  int       // that its body is in
	began time.Time // when the sender posted it or, where that is not known, its head came
}

// reorderBuffer puts messages in the order of their numbers where they come by several
// lanes, or by a fabric. Its owner's lock guards it.
type reorderBuffer struct {
	window uint64 // how many messages beyond the last in order the peer can have sent
	last   uint64 // number of the last message in order
	early  map[uint64]arrival
}

// accept delivers a message, and those that waited for it, where all before it are
// delivered; else it keeps the message. An error says that the peer cannot have sent
// the message now.
func (b *reorderBuffer) accept(a arrival, deliver func(arrival)) error {
	if err := b.check(a.f.Number); err != nil {
		return err
	}
	if b.early == nil {
		b.early = make(map[uint64]arrival)
	}
	if a.f.Number > b.last+1 {
		b.early[a.f.Number] = a
		return nil
	}
	for ok := true; ok; a, ok = b.popNext() {
		b.last++
		deliver(a)
	}
	return nil
}

func (b *reorderBuffer) popNext() (arrival, bool) {
	a, ok := b.early[b.last+1]
	delete(b.early, b.last+1)
	return a, ok
}

// discard frees the slots of messages that are still kept.
func (b *reorderBuffer) discard(from *receiveWindow) {
	for _, a := range b.early {
		from.free(a.slot)
	}
	b.early = nil
}

// check holds a message's number to the window.
func (b *reorderBuffer) check(number uint64) error {
	_, twice := b.early[number]
	if beyond := number - b.last; beyond == 0 || beyond > b.window || twice {
		return fmt.Errorf("%w: it is message %d, the last one was %d, and %d may be under way", ErrBadFrame, number, b.last, b.window)
	}
	return nil
}
