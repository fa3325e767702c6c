// Package schedule owns what happens when, as data: actions, the schedules made
// of them, and what can be said of a schedule before it runs. It imports nothing
// of this module and may not know clocks, sockets or tensors, so that planner,
// simulator, runtime, tests and timeline can all read one thing.
//
// # Actions
//
// An [Action] is a part, a layer, a direction and a micro-batch, and prints as
// one word: A3F2 is attention (A) of layer 3, forward (F), micro-batch 2. E3F2 is
// the experts' share of that layer. B is backward; W is the gradient of the
// weights, where it is split off. Where steps repeat, the step stands before it:
// 17:A3F2. Steps count from 1; everything else counts from 0.
//
// The embedding belongs to A0. What follows the last layer (final norm, head,
// and sampling or loss) is a part of its own, the head, which has no layer: HF2.
// In serving it runs on the attention ranks; in training it may live elsewhere.
//
// # Ranks and micro-batches
//
// A [Rank] owns stages (a part of a layer, or the head) and has a list of
// actions, which it runs in order. The ranks that own the same stage share its
// work: owners of attention are data-parallel, owners of experts are
// expert-parallel. A micro-batch is therefore spread over the owners of a stage:
// A3F2 on rank A0 is attention for A0's own rows of micro-batch 2, and E3F2 on
// rank E1 is one call over the rows that reach E1 from micro-batch 2 of *every*
// attention rank. So the words of an expert rank need no name of a sender.
//
// # What is derived
//
// Sends and receives are never written: they follow from the actions, see
// [Schedule.Transfers]. A row travels
//
//	A0 → E0 → A1 → E1 → … → H → A0 of the next step
//
// where a dense layer has no E. Between A and E every owner of the one sends to
// every owner of the other (many to many); between two attention stages, and
// from the head to the next step, rows stay with their data-parallel index.
// Backward actions walk the same edges the other way.
//
// [Schedule.Validate] proves a schedule, [DryRun] times it, [Timeline.Draw] and
// [Timeline.WriteChromeTrace] show it, and String and [Parse] make it a text
// file and back.
package schedule

// Schedule says what every rank does, and in which order.
type Schedule struct {
	// Name is one word: "pingpong".
	Name string
	// Layers is the number of layers of the model.
	Layers int
	// Sparse tells which layers have experts; its length is Layers. The others
	// are dense and run on attention ranks alone.
	Sparse []bool
	// MicroBatches is m, the number of micro-batches of a step.
	MicroBatches int
	// Steps is how often the model is run; 1 leaves actions without a step.
	Steps int
	// MaxLive bounds the micro-batches that a rank may have begun and not ended
	// (see [Schedule.PeakLive]); 0 is no bound.
	MaxLive int
	Ranks   []Rank
}

// Rank is one worker: what it owns, and what it does, in order.
type Rank struct {
	// Name is one word: "A0", "E3".
	Name string
	// Owns lists the stages whose weights the rank holds.
	Owns    []Stages
	Actions []Action
}
