package gather

import "time"

// Counters are totals since the gather was made.
type Counters struct {
	// Runs, Messages and Rows count the runs with at least one row, the messages
	// with at least one row in them, and those messages' rows. Empty counts the
	// messages without rows.
	Runs, Messages, Rows, Empty int
	// Complete, Forced and Linger split Runs by [Reason].
	Complete, Forced, Linger int
	// Late counts how often a node let a linger pass without sending a message.
	Late int
	// Held is the sum of the times that messages were held back; MaxHeld is the
	// longest such time.
	Held, MaxHeld time.Duration
}

// Aggregation is rows per run ÷ rows per message: how many messages the average
// run joined. Messages and runs without rows do not count. 0 means that nothing
// ran.
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

// run counts a run of so many rows.
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
