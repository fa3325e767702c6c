package gather

import (
	"fmt"
	"math/bits"
	"slices"
	"time"
)

// maxMicroBatches is how many micro-batches a node can have: Busy's set has a bit
// for each.
const maxMicroBatches = 64

// node is what is known of an attention node.
type node struct {
	name string
	// set has a bit for each micro-batch that the node said is in flight; 0 is an
	// idle node.
	set uint64
	// batches are the micro-batches seen so far, by number. One that is not in
	// the set and not gone goes once it is answered.
	batches []batch
	// pace holds the last gaps between an answer and the next message.
	pace window
	// late is a node that let a linger pass.
	late bool
	// heard is when its last message arrived.
	heard time.Duration
}

// state is where a micro-batch is.
type state int

const (
	gone    state = iota // not in flight
	away                 // with the attention node, which will send its position
	here                 // its message waits
	running              // its message is in the run
)

// batch is a micro-batch.
type batch struct {
	state state
	// at is its place on the circle: that of the layer it asks for or will ask
	// for, or the one after the last layer, where it is between two steps.
	at int
	// step is the last step seen, where any was.
	step  uint64
	known bool
	// returned is when it was answered.
	returned time.Duration
}

// inFlight takes the node's word on which micro-batches are in flight: new ones
// begin before the first layer, missing ones go, at once or when answered.
func (n *node) inFlight(set uint64) {
	n.set = set
	for len(n.batches) < bits.Len64(set) {
		n.batches = append(n.batches, batch{})
	}
	for i := range n.batches {
		b := &n.batches[i]
		switch in := n.has(i); {
		case in && b.state == gone:
			b.state, b.at = away, 0
		case !in && b.state == away:
			b.state = gone
		}
	}
}

func (n *node) has(batch int) bool { return batch < maxMicroBatches && n.set>>batch&1 == 1 }

// due returns the place that the node's message of a step must be for.
func (n *node) due(m Message) (int, error) {
	if m.MicroBatch < 0 || !n.has(m.MicroBatch) {
		return 0, fmt.Errorf("micro-batch %d is not in flight, the set of those is %b", m.MicroBatch, n.set)
	}
	b := &n.batches[m.MicroBatch]
	switch {
	case !b.known || m.Step > b.step:
		return 0, nil
	case m.Step < b.step:
		return 0, fmt.Errorf("step %d after step %d", m.Step, b.step)
	case b.state != away:
		return 0, fmt.Errorf("the micro-batch's last message was not answered")
	}
	return b.at, nil
}

// paceRatio is how many times slower a node may be for another to wait for it.
const paceRatio = 3

// keepsPaceWith reports whether waiting for each other is worth it. Who has
// shown no pace yet is given the benefit of the doubt.
func (n *node) keepsPaceWith(other *node) bool {
	a, b := n.pace.median(), other.pace.median()
	return a == 0 || b == 0 || max(a, b) <= paceRatio*min(a, b)
}

// window holds the last five durations. Its median follows a change after three
// and ignores two outliers.
type window struct {
	last [5]time.Duration
	n    int
}

func (w *window) add(d time.Duration) {
	w.last[w.n%len(w.last)] = max(d, 1)
	w.n++
}

// median returns 0 before the third duration.
func (w *window) median() time.Duration {
	sorted := w.last
	n := min(w.n, len(sorted))
	if n < 3 {
		return 0
	}
	slices.Sort(sorted[:n])
	return sorted[n/2]
}
