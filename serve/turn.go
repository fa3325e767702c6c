package serve

// Turn is told when a node has work to do and when it has none, so that idle
// threads keep out of its way.
type Turn interface {
	Enter()
	Leave()
}

// turn is when a node computes, and what is between, until it waits or hands over to
// who needs the cores. It lasts through a post: helpers that spin on meanwhile keep
// their cores, so that the kernel runs who gets the message on the poster's, which
// is about to wait, and not on one that sleeps, which takes 25 µs to wake in a
// virtual machine.
type turn struct {
	pool Turn // nil where nobody is to know
	on   bool
}

// begin does nothing in a turn.
func (t *turn) begin() {
	if !t.on && t.pool != nil {
		t.on = true
		t.pool.Enter()
	}
}

// end does nothing outside of one.
func (t *turn) end() {
	if t.on {
		t.on = false
		t.pool.Leave()
	}
}
