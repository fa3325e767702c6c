package exchange

import "context"

// contestant is one of those that take turns.
type contestant interface {
	// measure exchanges so many iterations, after some that are not counted.
	measure(ctx context.Context, iterations int) (turn, error)
	// close ends its processes.
	close() error
}

// turn is what one turn measured.
type turn struct {
	times []float64 // seconds of each iteration
	// cpu is the seconds of processor time of all ends in so many bytes; 0 bytes
	// where it is not known.
	cpu, bytes float64
}

// entrant is a contestant of a shape, and what it has done so far.
type entrant struct {
	contestant
	name  string
	each  int // iterations of a turn
	turns []turn
}

// iterationsOf are those of a turn where one takes so many seconds: enough for
// all that are wanted, and as many as there is time for.
func iterationsOf(o *Options, seconds float64) int {
	wanted := (o.Iterations + o.Repeats - 1) / o.Repeats
	if seconds > 0 {
		if fit := o.Time.Seconds() / float64(o.Repeats) / seconds; fit < float64(wanted) {
			wanted = int(fit)
		}
	}
	return min(max(wanted, 1), maxRound-maxRound/10)
}
