package node

// Pool is told when a node has work to do and when it has none, so that the idle
// threads of other nodes keep out of its way.
type Pool interface {
	Enter()
	Leave()
}

// Turn is the time during which a node computes and posts what it has computed.
// It lasts through the post: helper threads that spin meanwhile keep their cores, so
// that the kernel wakes the receiver of the message on the poster's core, which is
// about to become free. Another core would have to wake from sleep, which takes
// 25 µs in a virtual machine.
type Turn struct {
	Pool Pool // nil where nobody is to know
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
