// Package dispatch owns the protocol of one micro-batch with the expert nodes: a
// layer's rows go to every expert node, each returns its results, and all of them are
// combined; or the step is given up because an expert node is lost. It is a pure state
// machine: it may not know devices, endpoints or clocks.
//
// # States and events
//
//		state      Pack    Posted                Returned               Combine  Abort
//		Idle       Packed  panic                 error                  panic    Aborted
//		Packed     panic   Packed, Awaiting (1)  Packed (2)             panic    Aborted
//		Awaiting   panic   panic                 Awaiting, Collected (3) panic   Aborted
//		Collected  panic   panic                 error                  Idle     Aborted
//		Aborted    Packed  panic                 error                  panic    Aborted
//
//	 1. Awaiting once the last expert node has been sent its rows.
//	 2. From an expert node that has been sent its rows, once.
//	 3. From an expert node whose results are missing; Collected by the last of them.
//
// Our own mistakes panic. What a peer does wrong is an error, and changes nothing.
// Two things outlast the states and are kept beside them:
//
//   - Which messages the transport still reads: Posted adds one, Sent removes it, in
//     any state. The send buffers are free, and Pack is legal, once there are none.
//   - Which results an expert node still owes for steps that were given up: Abort adds
//     them. Returned tells the caller to drop those, in any state. They come in the
//     order of their steps or not at all (an expert node drops the rows of a step for
//     those of a later one), so that later results settle the earlier debts. Lost
//     forgets the debts of an expert node that will return nothing more.
package dispatch

import (
	"fmt"
	"maps"
	"slices"
)

// State is where the rows of a micro-batch are.
type State uint8

// States.
const (
	// Idle: no rows are under way.
	Idle State = iota
	// Packed: the rows are in the send buffers, and not every expert node has been
	// sent its own.
	Packed
	// Awaiting: every expert node has been sent its rows, and results are missing.
	Awaiting
	// Collected: all results are here.
	Collected
	// Aborted: the step was given up.
	Aborted
)

func (s State) String() string {
	return [...]string{"idle", "packed", "awaiting", "collected", "aborted"}[s]
}

// Point is a layer of a step. Steps rise.
type Point struct {
	Step  uint64
	Layer int
}

// after says whether p follows another point: in a later step, or, where the step goes
// on, in a later layer of the same.
func (p Point) after(q Point, goesOn bool) bool {
	return p.Step > q.Step || goesOn && p.Step == q.Step && p.Layer > q.Layer
}

func (p Point) String() string { return fmt.Sprintf("step %d, layer %d", p.Step, p.Layer) }

// Dispatch is the exchange of one micro-batch with expert nodes, which it knows by
// place, from 0.
type Dispatch struct {
	state   State
	at      Point          // of the last Pack
	places  []place        // by place of an expert node
	missing []uint64       // bit p is set where the results of place p are to come
	left    int            // bits of missing
	posted  int            // places that have been sent their rows
	unsent  map[uint64]int // messages that the transport reads: the places they are for
}

// place is what is known of one expert node.
type place struct {
	posted bool
	owed   []Point // of steps that were given up, rising
}

// New returns the exchange with so many expert nodes, idle.
func New(places int) *Dispatch {
	return &Dispatch{
		places: make([]place, places), missing: make([]uint64, Words(places)), unsent: map[uint64]int{},
	}
}

// Words is the length of the set that Missing returns.
func Words(places int) int { return (places + 63) / 64 }

// State tells the state.
func (d *Dispatch) State() State { return d.state }

// At is the layer and step of the last Pack.
func (d *Dispatch) At() Point { return d.at }

// Free says that the transport reads no message of this exchange any more.
func (d *Dispatch) Free() bool { return len(d.unsent) == 0 }

// Missing is the set of places whose results are to come, bit p%64 of word p/64
// standing for place p. It belongs to the Dispatch.
func (d *Dispatch) Missing() []uint64 { return d.missing }

// Unreturned lists the places whose results are to come.
func (d *Dispatch) Unreturned() (places []int) {
	for p := range d.places {
		if d.awaits(p) {
			places = append(places, p)
		}
	}
	return places
}

// Unsent lists the places of the messages that the transport still reads.
func (d *Dispatch) Unsent() []int { return slices.Compact(slices.Sorted(maps.Values(d.unsent))) }

// Pack says that the rows of a layer are in the send buffers, for every expert node.
func (d *Dispatch) Pack(at Point) {
	d.must(d.state == Idle || d.state == Aborted, "packed")
	d.must(d.Free(), "packed into buffers that the transport reads")
	d.must(at.after(d.at, d.state == Idle), "packed for an earlier layer or step, or one that was given up,")
	d.state, d.at, d.posted, d.left = Packed, at, 0, len(d.places)
	for p := range d.places {
		d.places[p].posted = false
		d.missing[p/64] |= 1 << (p % 64)
	}
}

// Posted says that an expert node has been sent its rows, in a message with a token.
func (d *Dispatch) Posted(p int, token uint64) {
	d.must(d.state == Packed && !d.places[p].posted, "posted")
	d.unsent[token] = p
	d.places[p].posted = true
	if d.posted++; d.posted == len(d.places) {
		d.state = Awaiting
	}
}

// Sent says that the transport reads a message no more. One that is not of this
// exchange changes nothing.
func (d *Dispatch) Sent(token uint64) { delete(d.unsent, token) }

// Returned says that an expert node has returned its results for a layer of a step,
// and tells whether they are to be dropped, since the step was given up. Results
// that were not asked for are an error.
func (d *Dispatch) Returned(p int, at Point) (drop bool, err error) {
	if d.settle(p, at) {
		return true, nil
	}
	under := d.state == Packed || d.state == Awaiting
	if !under || at != d.at || !d.places[p].posted || !d.awaits(p) {
		return false, fmt.Errorf("results of %v from place %d, which were not asked for or have come before;"+
			" the exchange is %v at %v", at, p, d.state, d.at)
	}
	d.places[p].owed = d.places[p].owed[:0]
	d.missing[p/64] &^= 1 << (p % 64)
	if d.left--; d.left == 0 {
		d.state = Collected
	}
	return false, nil
}

func (d *Dispatch) awaits(p int) bool { return d.missing[p/64]>>(p%64)&1 == 1 }

// settle takes a debt, and those before it, off an expert node's list, and says
// whether it was on it.
func (d *Dispatch) settle(p int, at Point) bool {
	owed := d.places[p].owed
	i := slices.Index(owed, at)
	if i < 0 {
		return false
	}
	d.places[p].owed = slices.Delete(owed, 0, i+1)
	return true
}

// Combine says that the results have been added up.
func (d *Dispatch) Combine() {
	d.must(d.state == Collected, "combined")
	d.state = Idle
}

// Abort gives the step up: results of it that still come are to be dropped.
func (d *Dispatch) Abort() {
	if d.state == Packed || d.state == Awaiting {
		for p := range d.places {
			if d.places[p].posted && d.awaits(p) {
				d.places[p].owed = append(d.places[p].owed, d.at)
			}
		}
	}
	clear(d.missing)
	d.state, d.left = Aborted, 0
}

// Lost says that an expert node is gone: it returns nothing more. A step that is
// under way is for the caller to give up, before.
func (d *Dispatch) Lost(p int) {
	d.must(!d.awaits(p), "lost an expert node whose results are missing")
	d.places[p].owed = d.places[p].owed[:0]
}

// must panics where the caller did what the state does not allow.
func (d *Dispatch) must(legal bool, event string) {
	if !legal {
		panic(fmt.Sprintf("dispatch: %s while %v at %v, %d messages unsent", event, d.state, d.at, len(d.unsent)))
	}
}
