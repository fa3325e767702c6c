package exchange

import (
	"context"
	"errors"
	"runtime"
	"time"
)

// contestant is one of those that take turns.
type contestant interface {
	// measure exchanges so many iterations, after some that are not counted.
	measure(ctx context.Context, iterations int) (turn, error)
	// close ends its processes.
	close() error
}

// cores are the processors that this machine, or what bounds us on it, gives us.
func cores() int { return min(runtime.NumCPU(), runtime.GOMAXPROCS(0)) }

// turn is what one turn measured.
type turn struct {
	iterations int
	// times are the seconds of each iteration, or of as many as tell their
	// quantiles.
	times []float64
	// cpu is the seconds of processor time of all ends in so many bytes; 0 bytes
	// where it is not known.
	cpu, bytes float64
}

// entrant is a contestant of a shape, and what it has done so far.
type entrant struct {
	name  string
	each  int // iterations of a turn
	turns []turn

	start func(ctx context.Context) (contestant, error)
	// resident is the contestant where it waits for its turns, and nil where it is
	// started for each.
	resident contestant
}

// measure is one turn.
func (e *entrant) measure(ctx context.Context, iterations int) (t turn, err error) {
	c := e.resident
	if c == nil {
		if c, err = e.start(ctx); err != nil {
			return t, err
		}
		defer func() { err = errors.Join(err, c.close()) }()
	}
	return c.measure(ctx, iterations)
}

func (e *entrant) close() error {
	if e.resident == nil {
		return nil
	}
	return e.resident.close()
}

// leastTurn is how long a turn takes at least where there is time: ends are stopped
// between turns, and what they do first is to get going again.
const leastTurn = 20 * time.Millisecond

// iterationsOf are those of a turn where one takes so many seconds: enough for
// all that are wanted and for a turn, and as many as there is time for.
func iterationsOf(o *Options, seconds float64) int {
	wanted := float64((o.Iterations + o.Repeats - 1) / o.Repeats)
	if seconds > 0 {
		wanted = max(wanted, leastTurn.Seconds()/seconds)
		wanted = min(wanted, o.Time.Seconds()/float64(o.Repeats)/seconds)
	}
	return int(min(max(wanted, 1), maxRound-maxRound/10))
}
