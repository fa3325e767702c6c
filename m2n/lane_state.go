package m2n

import "fmt"

// laneState is where the sending half of a lane is in its life. pair.mu guards it.
//
//	state \ event  opened         begun    written       failed       pairDown
//	opening        idle                                               doomed
//	doomed         closing, bye
//	idle                          writing                             closing, bye
//	writing                                idle          closing      aborting, shutdown
//	aborting                               closing       closing
//	closing                                                           closing
//
// "bye": the lane closes with a goodbye that says why the pair ends, which only a lane
// between two frames can send. "closing" without it: the peer sees the end of the
// connection. "shutdown": the connection is shut down, so that the writer notices.
// Every other event in a state is a bug and panics.
//
// What a lane has received is no part of its state: frames still come after this end's
// goodbye, and the peer's goodbye may come while this end writes.
type laneState uint8

const (
	laneOpening  laneState = iota // the handshake is over, the lane has no connection yet
	laneDoomed                    // as laneOpening, but the pair is down
	laneIdle                      // nobody writes
	laneWriting                   // one goroutine writes a batch, or has left its rest to the connection
	laneAborting                  // the pair is down, and one goroutine has yet to notice
	laneClosing                   // a goroutine closes the connection
	laneStates
)

func (s laneState) String() string {
	return [...]string{"opening", "doomed", "idle", "writing", "aborting", "closing"}[s]
}

// laneEvent is something that happens to a lane.
type laneEvent uint8

const (
	laneOpened   laneEvent = iota // the lane has its connection, and reads
	laneBegun                     // a goroutine has gathered a batch, and is going to write it
	laneWritten                   // the batch is written
	laneFailed                    // writing it has failed
	lanePairDown                  // the pair is down
	laneEvents
)

func (e laneEvent) String() string {
	return [...]string{"opened", "begun", "written", "failed", "pair down"}[e]
}

// laneAction is what has to be done after an event, without pair.mu.
type laneAction uint8

const (
	doNothing      laneAction = iota
	closeCut                  // close the connection
	closeBye                  // send a goodbye, and close the connection
	shutDownSocket            // make the writer notice that the pair is down
)

type laneTransition struct {
	to laneState
	do laneAction
}

// laneTable is the table above. A nil entry is a bug in the caller.
var laneTable = [laneStates][laneEvents]*laneTransition{
	laneOpening:  {laneOpened: {laneIdle, doNothing}, lanePairDown: {laneDoomed, doNothing}},
	laneDoomed:   {laneOpened: {laneClosing, closeBye}},
	laneIdle:     {laneBegun: {laneWriting, doNothing}, lanePairDown: {laneClosing, closeBye}},
	laneWriting:  {laneWritten: {laneIdle, doNothing}, laneFailed: {laneClosing, closeCut}, lanePairDown: {laneAborting, shutDownSocket}},
	laneAborting: {laneWritten: {laneClosing, closeCut}, laneFailed: {laneClosing, closeCut}},
	laneClosing:  {lanePairDown: {laneClosing, doNothing}}, // writing failed before this lane heard that the pair is down
}

// after returns the state after an event, and what has to be done.
func (s laneState) after(e laneEvent) (laneState, laneAction) {
	t := laneTable[s][e]
	if t == nil {
		panic(fmt.Sprintf("m2n: lane: event %q in state %q", e, s))
	}
	return t.to, t.do
}
