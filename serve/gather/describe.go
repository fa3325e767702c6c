package gather

import (
	"fmt"
	"strings"
)

// String prints the actions, one a line, or "wait".
func (a Actions) String() string {
	var lines []string
	for _, m := range a.Drop {
		lines = append(lines, fmt.Sprintf("drop %v", m))
	}
	if a.Run != nil {
		lines = append(lines, a.Run.String())
	}
	if a.Timer != 0 {
		lines = append(lines, fmt.Sprintf("timer %v", a.Timer))
	}
	if lines == nil {
		return "wait"
	}
	return strings.Join(lines, "\n")
}

func (r *Run) String() string {
	text := fmt.Sprintf("run layer %d, %v:", r.Layer, r.Reason)
	for _, m := range r.Messages {
		text += " " + m.String()
	}
	return text
}

func (s state) String() string { return [...]string{"gone", "away", "here", "running"}[s] }

// Describe prints the state, for golden tests and for people.
func (g *Gather) Describe() string {
	var b strings.Builder
	fmt.Fprintf(&b, "now %v", g.now)
	if g.running != nil {
		fmt.Fprintf(&b, ", running layer %d since %v", g.running.Layer, g.started)
	}
	b.WriteByte('\n')
	for _, n := range g.order {
		b.WriteString(g.describeNode(n))
	}
	for at, group := range g.groups {
		for _, w := range group {
			fmt.Fprintf(&b, "layer %d: %v since %v", g.cfg.Layers[at], w.Message, w.arrived)
			if w.isHeld {
				fmt.Fprintf(&b, ", held from %v to %v", w.held, w.deadline)
			}
			b.WriteByte('\n')
		}
	}
	return b.String()
}

func (g *Gather) describeNode(n *node) string {
	text := n.name + ":"
	if n.set == 0 {
		text += " idle"
	}
	if pace := n.pace.median(); pace > 0 {
		text += fmt.Sprintf(" pace %v", pace)
	}
	if n.late {
		text += " late"
	}
	for i, b := range n.batches {
		if b.state != gone {
			text += fmt.Sprintf(" %d %v %s", i, b.state, g.placeName(b.at))
		}
	}
	return text + "\n"
}

func (g *Gather) placeName(at int) string {
	if at == len(g.cfg.Layers) {
		return "between steps"
	}
	return fmt.Sprintf("at layer %d", g.cfg.Layers[at])
}
