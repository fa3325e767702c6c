package gather

import "time"

const (
	// lingerCycles is the adaptive linger in cycles of a node. A node that is
	// behind must catch up with a node that is held back: during one linger the
	// first passes about lingerCycles layers and the second one layer. A linger
	// also covers one gap of a node that is paceRatio times slower.
	lingerCycles = 3
	minLinger    = 100 * time.Microsecond
	// firstLinger is the adaptive linger while a node's pace is not known.
	firstLinger = 5 * time.Millisecond
)

// decide starts a run where the device is free and the policy allows one; else it
// says when to decide again.
func (g *Gather) decide(now time.Duration) Actions {
	g.advance(now)
	if g.running != nil {
		return Actions{}
	}
	best, reason := -1, Reason(0)
	for at := range g.groups {
		if len(g.groups[at]) == 0 {
			continue
		}
		if r, may := g.mayRun(at); may && (best < 0 || g.before(at, r, best, reason)) {
			best, reason = at, r
		}
	}
	if best >= 0 {
		return Actions{Run: g.run(best, reason)}
	}
	return Actions{Timer: g.nextDeadline()}
}

// before orders groups that may run: those whose linger has ended first, then
// by the oldest message.
func (g *Gather) before(a int, ra Reason, b int, rb Reason) bool {
	if (ra == Linger) != (rb == Linger) {
		return ra == Linger
	}
	if ra == Linger {
		return g.deadline(a) < g.deadline(b)
	}
	return g.groups[a][0].arrived < g.groups[b][0].arrived
}

// mayRun reports whether the group at a place may run now, and why. It starts the
// lingers of a group that has to wait.
func (g *Gather) mayRun(at int) (Reason, bool) {
	switch group := g.groups[at]; {
	case rows(group) == 0:
		return Empty, true
	case !g.awaits(at):
		if g.holdsAll(group) {
			return Complete, true
		}
		return Forced, true
	}
	g.hold(at)
	return Linger, g.deadline(at) <= g.now
}

func rows(group []waiting) int {
	sum := 0
	for _, w := range group {
		sum += w.Rows
	}
	return sum
}

// holdsAll reports whether every busy node has a message in the group.
func (g *Gather) holdsAll(group []waiting) bool {
	for _, n := range g.order {
		if n.set != 0 && !holds(group, n) {
			return false
		}
	}
	return true
}

func holds(group []waiting, n *node) bool {
	for _, w := range group {
		if w.Node == n.name {
			return true
		}
	}
	return false
}

// awaits reports whether the group at a place waits for some node: see the package
// comment.
func (g *Gather) awaits(at int) bool {
	found := false
	g.eachAwaited(at, func(*node) { found = true })
	return found
}

func (g *Gather) eachAwaited(at int, f func(*node)) {
	group := g.groups[at]
	first := g.nodes[group[0].Node]
	rear := g.rear(first)
	for _, n := range g.order {
		if g.peers(first, n) && !holds(group, n) && g.toCome(n, at, rear) {
			f(n)
		}
	}
}

// peers reports whether first and n wait for each other.
func (g *Gather) peers(first, n *node) bool {
	return n == first || n.set != 0 && !n.late && n.keepsPaceWith(first)
}

// toCome reports whether a micro-batch of the node is behind or at a place.
func (g *Gather) toCome(n *node, at, rear int) bool {
	for i := range n.batches {
		if b := &n.batches[i]; b.state != gone && g.distance(rear, b.at) <= g.distance(rear, at) {
			return true
		}
	}
	return false
}

// places is the size of the circle: the sparse layers, and the place between
// two steps.
func (g *Gather) places() int { return len(g.groups) + 1 }

// distance counts the places from one to another, going forwards on the circle.
func (g *Gather) distance(from, to int) int {
	if to < from {
		to += g.places()
	}
	return to - from
}

// rear is the place of the micro-batches furthest behind among first and its
// peers: the place where the largest empty arc ends; of equal arcs, the lowest.
func (g *Gather) rear(first *node) int {
	taken := make([]bool, g.places())
	for _, n := range g.order {
		if !g.peers(first, n) {
			continue
		}
		for i := range n.batches {
			if b := &n.batches[i]; b.state != gone {
				taken[b.at] = true
			}
		}
	}
	return afterLargestGap(taken)
}

// afterLargestGap returns the taken place that follows the most free places in a
// row on the circle.
func afterLargestGap(taken []bool) int {
	last := -1
	for i, t := range taken {
		if t {
			last = i - len(taken) // the last taken place precedes the first one, a turn earlier
		}
	}
	best, gap := 0, 0
	for i, t := range taken {
		if !t {
			continue
		}
		if i-last > gap {
			best, gap = i, i-last
		}
		last = i
	}
	return best
}

// hold starts the linger of the group's messages that are not held yet.
func (g *Gather) hold(at int) {
	for i := range g.groups[at] {
		w := &g.groups[at][i]
		if !w.isHeld {
			w.isHeld, w.held, w.deadline = true, g.now, g.now+g.linger(g.nodes[w.Node])
		}
	}
}

// linger is how long a message of the node may be held back.
func (g *Gather) linger(n *node) time.Duration {
	switch pace := n.pace.median(); {
	case g.cfg.Linger < 0:
		return 0
	case g.cfg.Linger > 0:
		return g.cfg.Linger
	case pace == 0:
		return min(firstLinger, g.cfg.MaxLinger)
	default:
		cycle := pace + time.Duration(g.busyNodes())*g.runs.median()
		return min(max(lingerCycles*cycle, minLinger), g.cfg.MaxLinger)
	}
}

func (g *Gather) busyNodes() int {
	count := 0
	for _, n := range g.order {
		if n.set != 0 {
			count++
		}
	}
	return count
}

// deadline is the earliest end of a linger in a group; all its messages are held.
func (g *Gather) deadline(at int) time.Duration {
	first := g.groups[at][0].deadline
	for _, w := range g.groups[at] {
		first = min(first, w.deadline)
	}
	return first
}

// nextDeadline is the earliest deadline of all groups, 0 where no message waits.
func (g *Gather) nextDeadline() time.Duration {
	var next time.Duration
	for at := range g.groups {
		if len(g.groups[at]) > 0 {
			if d := g.deadline(at); next == 0 || d < next {
				next = d
			}
		}
	}
	return next
}

// run moves a group's oldest messages, up to MaxRows rows, into a new run.
func (g *Gather) run(at int, reason Reason) *Run {
	if reason == Linger {
		g.markLate(at)
	}
	group, n, sum := g.groups[at], 0, 0
	for ; n < len(group) && (n == 0 || g.cfg.MaxRows == 0 || sum+group[n].Rows <= g.cfg.MaxRows); n++ {
		sum += group[n].Rows
	}
	g.running = &Run{Layer: g.cfg.Layers[at], Reason: reason}
	for _, w := range group[:n] {
		if sender := g.nodes[w.Node]; sender != nil {
			sender.batches[w.MicroBatch].state = running
		}
		g.running.Messages = append(g.running.Messages, w.Message)
		g.count.take(w, g.now)
	}
	g.groups[at] = append(group[:0], group[n:]...)
	g.started = g.now
	g.count.run(reason, sum)
	return g.running
}

// markLate marks the awaited nodes that have sent nothing since the group's first
// message was held back.
func (g *Gather) markLate(at int) {
	since := g.groups[at][0].held
	g.eachAwaited(at, func(n *node) {
		if n.heard < since {
			n.late = true
			g.count.Late++
		}
	})
}
