package gather

import (
	"fmt"
	"slices"
	"time"
)

// node is what is known of an attention node.
type node struct {
	name string
	// busy is the number of micro-batches of its step, 0 where it is idle.
	busy int
	// batches are the micro-batches in flight. One beyond busy is the rest of an
	// earlier step and goes when that ends.
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

// batch is a micro-batch in flight.
type batch struct {
	state state
	// at is the position: the place of the layer that it asks for, or will.
	at int
	// step is the last step seen, where any was.
	step  uint64
	known bool
	// inStep tells that step goes on at position at; else a new step begins.
	inStep bool
	// returned is when it was answered.
	returned time.Duration
}

// resize makes the node expect m micro-batches: new ones begin at the first
// layer, surplus ones go now or when their step ends.
func (n *node) resize(m int) {
	n.busy = m
	for len(n.batches) < m {
		n.batches = append(n.batches, batch{})
	}
	for i := range n.batches {
		b := &n.batches[i]
		switch {
		case i < m && b.state == gone:
			b.state, b.at, b.inStep = away, 0, false
		case i >= m && b.state == away && (m == 0 || !b.inStep):
			b.state = gone
		}
	}
}

// accept checks that the node may send m now, for the layer at place at.
func (n *node) accept(m Message, at int) error {
	if m.MicroBatch < 0 || m.MicroBatch >= len(n.batches) || n.batches[m.MicroBatch].state == gone {
		return fmt.Errorf("micro-batch %d is not in flight, the node is busy with %d", m.MicroBatch, n.busy)
	}
	b := &n.batches[m.MicroBatch]
	if b.known && (m.Step < b.step || m.Step == b.step && !b.inStep) {
		return fmt.Errorf("step %d after step %d", m.Step, b.step)
	}
	want := 0
	if b.inStep && m.Step == b.step {
		want = b.at
		if b.state != away {
			return fmt.Errorf("the micro-batch's last message was not answered")
		}
	}
	if at != want {
		return fmt.Errorf("it is for place %d of the sparse layers, want %d", at, want)
	}
	return nil
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
// and ignores an outlier.
type window struct {
	last [5]time.Duration
	n    int
}

func (w *window) add(d time.Duration) {
	w.last[w.n%len(w.last)] = max(d, 1)
	w.n++
}

// median returns 0 before the first duration.
func (w *window) median() time.Duration {
	sorted := w.last
	n := min(w.n, len(sorted))
	if n == 0 {
		return 0
	}
	slices.Sort(sorted[:n])
	return sorted[n/2]
}
