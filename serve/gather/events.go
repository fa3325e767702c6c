package gather

import (
	"fmt"
	"time"
)

// Joined adds an attention node, idle.
func (g *Gather) Joined(name string) error {
	if g.nodes[name] != nil {
		return fmt.Errorf("gather: node %s joins a second time", name)
	}
	g.nodes[name] = &node{name: name}
	g.sortNodes()
	return nil
}

// Lost removes an attention node and drops its waiting messages; messages in the
// current run stay in it. Losing a node that never joined changes nothing.
func (g *Gather) Lost(name string, now time.Duration) Actions {
	delete(g.nodes, name)
	g.sortNodes()
	var drop []Message
	for at := range g.groups {
		keep := g.groups[at][:0]
		for _, w := range g.groups[at] {
			if w.Node == name {
				drop = append(drop, w.Message)
				continue
			}
			keep = append(keep, w)
		}
		g.groups[at] = keep
	}
	out := g.decide(now)
	out.Drop = drop
	return out
}

// Busy says which of the node's micro-batches are in flight from now on; bit i
// stands for micro-batch i. A micro-batch is in flight while its next message is
// still to come or waits here. An idle node sets no bit.
func (g *Gather) Busy(name string, set uint64, now time.Duration) (Actions, error) {
	n := g.nodes[name]
	if n == nil {
		return Actions{}, fmt.Errorf("gather: node %s has not joined and has micro-batches %b in flight", name, set)
	}
	n.inFlight(set)
	return g.decide(now), nil
}

// Arrive takes a message. For a message that breaks the contract it returns an
// error that names the message, and changes nothing. A message of a new step
// replaces the micro-batch's message of an abandoned step, which is dropped.
func (g *Gather) Arrive(m Message, now time.Duration) (Actions, error) {
	n, at, err := g.check(m)
	if err != nil {
		return Actions{}, fmt.Errorf("gather: message %v: %w", m, err)
	}
	g.advance(now)
	b := &n.batches[m.MicroBatch]
	var drop []Message
	if b.state == here {
		drop = g.remove(b.at, m)
	}
	// The gap before a step's first message holds head, sampling and batching: it
	// says nothing about the node's pace.
	if b.known && m.Step == b.step {
		n.pace.add(g.now - b.returned)
	}
	*b = batch{state: here, at: at, step: m.Step, known: true}
	n.late, n.heard = false, g.now
	g.groups[at] = append(g.groups[at], waiting{Message: m, arrived: g.now})
	out := g.decide(now)
	out.Drop = drop
	return out, nil
}

// check returns the message's node and its layer's place on the circle, or says
// how the message breaks the contract.
func (g *Gather) check(m Message) (*node, int, error) {
	n := g.nodes[m.Node]
	if n == nil {
		return nil, 0, fmt.Errorf("the node has not joined")
	}
	at, ok := g.ordinal[m.Layer]
	if !ok {
		return nil, 0, fmt.Errorf("layer %d is not sparse", m.Layer)
	}
	if m.Rows < 0 {
		return nil, 0, fmt.Errorf("%d rows", m.Rows)
	}
	due, err := n.due(m)
	switch {
	case err != nil:
		return nil, 0, err
	case due == len(g.groups):
		return nil, 0, fmt.Errorf("the micro-batch has ended step %d", m.Step)
	case due != at:
		return nil, 0, fmt.Errorf("the micro-batch is due at layer %d", g.cfg.Layers[due])
	}
	return n, at, nil
}

// remove takes the waiting message of m's micro-batch out of a group and returns
// it.
func (g *Gather) remove(at int, m Message) []Message {
	for i, w := range g.groups[at] {
		if w.Node == m.Node && w.MicroBatch == m.MicroBatch {
			g.groups[at] = append(g.groups[at][:i], g.groups[at][i+1:]...)
			return []Message{w.Message}
		}
	}
	panic(fmt.Sprintf("gather: %s's micro-batch %d is here and not in group %d", m.Node, m.MicroBatch, at))
}

// Timer says that the time in [Actions.Timer] has come. An early or needless call
// does no harm.
func (g *Gather) Timer(now time.Duration) Actions { return g.decide(now) }

// Done says that the run has ended and its messages are answered. Call Arrive for
// the messages that came during the run before Done, so that they take part in
// the choice of the next run.
func (g *Gather) Done(now time.Duration) Actions {
	if g.running == nil {
		panic("gather: Done without a run")
	}
	g.advance(now)
	g.runs.add(g.now - g.started)
	for _, m := range g.running.Messages {
		if n := g.nodes[m.Node]; n != nil && m.MicroBatch < len(n.batches) {
			g.answered(n, m)
		}
	}
	g.running = nil
	return g.decide(now)
}

// answered moves a micro-batch to its next place, unless its node joined again or
// abandoned the step during the run.
func (g *Gather) answered(n *node, m Message) {
	b := &n.batches[m.MicroBatch]
	if b.state != running || b.step != m.Step {
		return
	}
	b.state, b.returned = away, g.now
	b.at++
	if !n.has(m.MicroBatch) {
		b.state = gone
	}
}

// advance sets the time to now, or leaves it where now is earlier.
func (g *Gather) advance(now time.Duration) { g.now = max(g.now, now) }
