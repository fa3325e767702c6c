package gather

import "time"

// Counters are totals since the gather was made.
type Counters struct {
	// Runs, Messages and Rows count what was run. A message without rows counts
	// in neither Runs (where it ran alone) nor Messages, but in Empty.
	Runs, Messages, Rows, Empty int
	// Complete, Forced and Linger are Runs by reason.
	Complete, Forced, Linger int
	// Late counts nodes that let a linger pass without a message.
	Late int
	// Held is the time that messages were held back, summed, and MaxHeld the
	// longest.
	Held, MaxHeld time.Duration
}

// Aggregation is rows per run ÷ rows per message: how many messages the average
// run joined. Messages without rows are left out on both sides. 0 means that
// nothing ran.
func (c Counters) Aggregation() float64 {
	if c.Runs == 0 {
		return 0
	}
	return float64(c.Messages) / float64(c.Runs)
}

// take counts a message that runs now.
func (c *Counters) take(w waiting, now time.Duration) {
	if w.Rows == 0 {
		c.Empty++
	} else {
		c.Messages++
		c.Rows += w.Rows
	}
	if w.isHeld {
		c.Held += now - w.held
		c.MaxHeld = max(c.MaxHeld, now-w.held)
	}
}

// run counts a run.
func (c *Counters) run(reason Reason, rows int) {
	if rows == 0 {
		return
	}
	c.Runs++
	switch reason {
	case Complete:
		c.Complete++
	case Forced:
		c.Forced++
	case Linger:
		c.Linger++
	}
}
