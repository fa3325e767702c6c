package gather

import (
	"fmt"
	"math/bits"
	"slices"
	"time"
)

// maxMicroBatches is how many micro-batches a node can have: the set that
// [Gather.Busy] takes has one bit for each.
const maxMicroBatches = 64

// node is what the gather knows of an attention node.
type node struct {
	name string
	// set has a bit for each micro-batch that the node said is in flight; an idle
	// node has none.
	set uint64
	// batches are the micro-batches seen so far, by number. A micro-batch that has
	// left the set while its message waits or runs becomes gone when it is answered.
	batches []batch
	// pace holds the last gaps between an answer and the next message.
	pace window
	// late says that the node let a linger pass without sending, and has not sent
	// since.
	late bool
	// heard is when the node's last message arrived.
	heard time.Duration
}

// state says where a micro-batch is.
type state int

const (
	gone    state = iota // not in flight
	away                 // with the attention node, whose next message for it is still to come
	here                 // its message waits
	running              // its message is in the run
)

// batch is a micro-batch.
type batch struct {
	state state
	// at is its place on the circle: the ordinal of the sparse layer it asks for or
	// will ask for, or the number of sparse layers while it is between two steps.
	at int
	// step is the step of its last message; known says that there was a message.
	step  uint64
	known bool
	// returned is when its last message was answered.
	returned time.Duration
}

// inFlight notes which micro-batches the node says are in flight. New ones start
// at the first layer; ones that left the set become gone, at once or when their
// message is answered.
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

// due returns the place whose layer the message must ask for.
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

// keepsPaceWith reports whether it is worth for the two nodes to wait for each
// other. A node whose pace is not known yet counts as fast enough.
func (n *node) keepsPaceWith(other *node) bool {
	a, b := n.pace.median(), other.pace.median()
	return a == 0 || b == 0 || max(a, b) <= paceRatio*min(a, b)
}

// window holds the last five durations. Its median follows a change after three
// new durations and ignores two outliers.
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
