package m2n

import (
	"fmt"
	"sync"
	"time"

	"github.com/tandem-moe/tandem/m2n/internal/wire"
)

// advance is how far the frames of a lane have come: the lane's reader notes it, and
// the watchdog looks. Signs of life tell that the peer is there, and not that a frame
// gets on: where a network has lost a part of a frame, the assembler takes the signs
// of life that follow for the rest of the frame, so that they keep a lane alive on
// which nothing will ever be complete. So inside of a frame more bytes have to come
// than signs of life bring.
type advance struct {
	mu    sync.Mutex
	bytes uint64 // read so far
	at    wire.Position

	// The watchdog's own: since when, from which count and in which frame it waits for
	// enough.
	since   time.Duration
	from    uint64
	frame   uint64
	suspect bool // too few bytes had come when the watchdog last looked
}

// begin is called before there is a reader or a watchdog.
func (a *advance) begin(now time.Duration, at wire.Position) { a.since, a.at = now, at }

// note is called by the lane's reader: so many more bytes have come, and the assembler
// stands there.
func (a *advance) note(bytes int, at wire.Position) {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.bytes += uint64(bytes)
	a.at = at
}

// look is called by the watchdog. It returns an error where fewer than least bytes of
// the present frame have come within limit.
func (a *advance) look(now, limit time.Duration, least int) error {
	a.mu.Lock()
	defer a.mu.Unlock()
	came, wait := a.bytes-a.from, now-a.since
	switch {
	case a.at.AtBoundary() || a.at.Seq != a.frame || came >= uint64(least):
		a.since, a.from, a.frame, a.suspect = now, a.bytes, a.at.Seq, false
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
	if a.at.AtBoundary() {
		return ""
	}
	return fmt.Sprintf("; %v are missing", a.at)
}
