// Package schedule owns the order of work as data: actions, the schedules made of
// them, and what can be proved and computed of a schedule before it runs. It
// imports nothing of this module and may not know clocks, sockets or tensors, so
// that a planner, a simulator, workers, tests and a timeline can read the same
// schedule.
//
// # Actions
//
// An [Action] is a part of a layer, a direction and a micro-batch, and prints as
// one word: A3F2 is attention (A) of layer 3, forward (F), micro-batch 2, and
// E3F2 is the experts (E) of that layer. B is backward; W is the gradient of the
// weights, in schedules that split it off. Where a schedule runs the model several
// times, the step stands before the word: 17:A3F2. Steps count from 1, layers and
// micro-batches from 0. The letters are a table: see [Parts] and [Directions].
//
// The embedding belongs to A0. The final norm, the output embedding and the
// sampling or loss are a part of their own, the head, which has no layer: HF2. In
// serving, attention ranks own the head; in training, other ranks may.
//
// # Ranks and micro-batches
//
// A [Rank] owns stages (a part of a layer, or the head) and has a list of
// actions, which it runs in order. The ranks that own the same stage share its
// work: owners of attention are data-parallel, owners of experts are
// expert-parallel. So a micro-batch is spread over the owners of a stage: A3F2 on
// rank A0 is attention for A0's own rows of micro-batch 2, and E3F2 on rank E1 is
// one call over the rows that reach E1 from micro-batch 2 of *every* attention
// rank. The words of an expert rank therefore name no sender.
//
// # What is derived
//
// A schedule never lists sends and receives: they follow from the actions, see
// [Schedule.Transfers]. A row travels
//
//	A0 → E0 → A1 → E1 → … → H → A0 of the next step
//
// and passes by E in a dense layer. Between A and E every owner of the one sends
// to every owner of the other (many to many). Between two attention stages, and
// from the head to the next step, the i-th owner of the one sends to the i-th of
// the other. Backward actions send along the same edges, the other way.
//
// [Schedule.Validate] proves a schedule, [Schedule.Cycle] finds what a worker
// repeats, [DryRun] computes times, [Timeline.Draw] and [Timeline.WriteChromeTrace]
// show them, and String and [Parse] turn a schedule into text and back. Package
// interpret walks a worker through the actions of its rank.
package schedule

// Schedule lists the actions of every rank, in order.
type Schedule struct {
	// Name is one word: "pingpong".
	Name string
	// Layers is the number of layers of the model.
	Layers int
	// Sparse tells of each layer whether it has experts. The others are dense and
	// run on attention ranks alone.
	Sparse []bool
	// MicroBatches is m, the number of micro-batches of a step.
	MicroBatches int
	// Steps is how often the model is run. Where it is 1, actions carry step 0.
	Steps int
	// MaxLive bounds the micro-batches that a rank may have begun and not ended
	// (see [Schedule.PeakLive]); 0 is no bound.
	MaxLive int
	Ranks   []Rank
}

// Rank is one worker: the stages that it owns, and its actions in order.
type Rank struct {
	// Name is one word: "A0", "E3".
	Name string
	// Owns lists the stages whose weights the rank holds.
	Owns    []Stages
	Actions []Action
}
