package m2n

import (
	"fmt"
	"sync"
	"time"
)

// advance is what is known of a lane's getting on, between its reader, who notes,
// and the watchdog, who looks. Signs of life say that the peer is there; they do not
// say that a frame gets on: where a network has lost a part of one, they are taken
// for its rest, and keep a lane alive on which nothing will ever be complete. So
// inside of a frame more has to come than they bring.
type advance struct {
	mu    sync.Mutex
	bytes uint64 // read so far
	at    standing

	// The watchdog's own: since when, from which count and in which frame it waits for
	// enough.
	since   time.Duration
	from    uint64
	frame   uint64
	suspect bool // it was too little when the watchdog last looked
}

// begin is called before there is a reader or a watchdog.
func (a *advance) begin(now time.Duration, at standing) { a.since, a.at = now, at }

// note is the reader's.
func (a *advance) note(bytes int, at standing) {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.bytes += uint64(bytes)
	a.at = at
}

// look is the watchdog's: an error where the present frame does not get on. least is
// how many bytes have to come within limit.
func (a *advance) look(now, limit time.Duration, least int) error {
	a.mu.Lock()
	defer a.mu.Unlock()
	came, wait := a.bytes-a.from, now-a.since
	switch {
	case a.at.between() || a.at.seq != a.frame || came >= uint64(least):
		a.since, a.from, a.frame, a.suspect = now, a.bytes, a.at.seq, false
	case wait > limit && a.suspect:
		return fmt.Errorf("%w: %v are missing, and %d bytes came in %v: at least %d should within %v",
			ErrSilent, a.at, came, wait.Round(time.Millisecond), least, limit)
	default:
		a.suspect = wait > limit // the reader may be late: it gets one more interval
	}
	return nil
}

// missing says what of a frame is to come, for an error: nothing between two.
func (a *advance) missing() string {
	a.mu.Lock()
	defer a.mu.Unlock()
	if a.at.between() {
		return ""
	}
	return fmt.Sprintf("; %v are missing", a.at)
}
