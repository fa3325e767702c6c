package node

// Pool is told when a node has work and when it has none, so that idle helper threads
// of other nodes in the process do not take its cores.
type Pool interface {
	Enter()
	Leave()
}

// Turn is the time during which a node computes and posts the result. The post is
// part of it: as long as the turn lasts, helper threads spin on the other cores, and
// so the operating system wakes the message's receiver on the poster's core, which is
// about to become free. An idle core would first have to wake from sleep, which takes
// 25 µs in a virtual machine.
type Turn struct {
	Pool Pool // nil where no pool is to be told
	on   bool
}

// Begin does nothing during a turn.
func (t *Turn) Begin() {
	if !t.on && t.Pool != nil {
		t.on = true
		t.Pool.Enter()
	}
}

// End does nothing outside of a turn.
func (t *Turn) End() {
	if t.on {
		t.on = false
		t.Pool.Leave()
	}
}
