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

// Lost removes an attention node and drops its messages, except those that run.
// A node that never joined is no error.
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

// Busy says which of the node's micro-batches are in flight from now on, bit i
// standing for micro-batch i: those of which a message is to come or is here. No
// bits is an idle node.
func (g *Gather) Busy(name string, set uint64, now time.Duration) (Actions, error) {
	n := g.nodes[name]
	if n == nil {
		return Actions{}, fmt.Errorf("gather: node %s has not joined and has micro-batches %b in flight", name, set)
	}
	n.inFlight(set)
	return g.decide(now), nil
}

// Arrive takes a message. A message that breaks the contract is an error that
// names it, and changes nothing. A message of a new step replaces one of an
// abandoned step, which is dropped.
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
	if b.known && m.Step == b.step { // not the first of a step: that takes longer
		n.pace.add(g.now - b.returned)
	}
	*b = batch{state: here, at: at, step: m.Step, known: true}
	n.late, n.heard = false, g.now
	g.groups[at] = append(g.groups[at], waiting{Message: m, arrived: g.now})
	out := g.decide(now)
	out.Drop = drop
	return out, nil
}

// check finds the message's node and place.
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

// remove takes the waiting message of m's micro-batch out of a group.
func (g *Gather) remove(at int, m Message) []Message {
	for i, w := range g.groups[at] {
		if w.Node == m.Node && w.MicroBatch == m.MicroBatch {
			g.groups[at] = append(g.groups[at][:i], g.groups[at][i+1:]...)
			return []Message{w.Message}
		}
	}
	panic(fmt.Sprintf("gather: %s's micro-batch %d is here and not in group %d", m.Node, m.MicroBatch, at))
}

// Timer says that the time of [Actions.Timer] has come. An early or needless
// call does no harm.
func (g *Gather) Timer(now time.Duration) Actions { return g.decide(now) }

// Done says that the run has ended and its messages are answered. What arrived
// during the run should be told first: it decides what runs next.
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

// answered moves a micro-batch on, unless its node came back or abandoned the
// step in the meantime.
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

// advance moves the clock, never back.
func (g *Gather) advance(now time.Duration) { g.now = max(g.now, now) }
