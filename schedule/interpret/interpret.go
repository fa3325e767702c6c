// Package interpret owns the walk of a worker through the actions of its rank:
// the same for serving, where a cycle repeats without end, and for training,
// where a list is performed once a batch. It may not know what an action does,
// and has no clock and no socket: a [Performer] has those.
//
// The order of a worker's actions is the schedule's and nobody else's. A
// performer may not swap actions; it may pass one over, that is return at once.
// In serving a micro-batch has nothing to do while no sequence belongs to it: if
// its attention of layer 0 finds no rows, it is not in that step, and the
// performer passes over its other actions until it comes to layer 0 again.
package interpret

import (
	"context"
	"fmt"
	"sync/atomic"

	"github.com/tandem-moe/tandem/schedule"
)

// Performer does one action of a rank to its end. An error ends the walk.
type Performer func(ctx context.Context, a schedule.Action) error

// Walk is the way of one worker through its actions. One goroutine calls Pass;
// any may call At and Performed.
type Walk struct {
	prologue, cycle []schedule.Action
	performed       atomic.Uint64
	failed          error
}

// New makes the walk of a rank, once [schedule.Schedule.Validate] has proved the
// schedule. A schedule of one step is walked over and over as it is; one of three
// or more steps is walked without end (see [schedule.Schedule.Cycle]).
func New(s *schedule.Schedule, rank int) (*Walk, error) {
	if err := s.Validate(); err != nil {
		return nil, err
	}
	prologue, cycle, err := s.Cycle(rank)
	if err != nil {
		return nil, err
	}
	if len(cycle) == 0 {
		return nil, fmt.Errorf("schedule %s: rank %s has no actions", s.Name, s.Ranks[rank].Name)
	}
	return &Walk{prologue: prologue, cycle: cycle}, nil
}

// Pass performs the prologue, where there is one and this is the first pass, or
// else the cycle once. It ends early with an error of the performer, or of ctx,
// and then begins with the word of the action: "17:A3F2: …". After an error the
// walk is over: Pass returns the same error again.
func (w *Walk) Pass(ctx context.Context, perform Performer) error {
	if w.failed != nil {
		return w.failed
	}
	done := w.performed.Load()
	list, turn := w.prologue, 0
	if done >= uint64(len(w.prologue)) {
		list, turn = w.cycle, w.turn(done)
	}
	for _, a := range list {
		a = later(a, turn)
		err := ctx.Err()
		if err == nil {
			err = perform(ctx, a)
		}
		if err != nil {
			w.failed = fmt.Errorf("%v: %w", a, err)
			return w.failed
		}
		w.performed.Add(1)
	}
	return nil
}

// turn is how often the cycle has been performed once so many actions have.
func (w *Walk) turn(performed uint64) int {
	return int((performed - uint64(len(w.prologue))) / uint64(len(w.cycle)))
}

// later is an action of the cycle after so many turns. One without a step stays.
func later(a schedule.Action, turns int) schedule.Action {
	if a.Step > 0 {
		a.Step += turns
	}
	return a
}

// At returns the action that is being performed or, between two passes, the next
// one. Steps rise by 1 with each turn of the cycle, those of idle micro-batches
// included.
func (w *Walk) At() schedule.Action {
	n := w.performed.Load()
	if n < uint64(len(w.prologue)) {
		return w.prologue[n]
	}
	return later(w.cycle[(n-uint64(len(w.prologue)))%uint64(len(w.cycle))], w.turn(n))
}

// Performed is the number of actions that have been performed or passed over.
func (w *Walk) Performed() uint64 { return w.performed.Load() }
