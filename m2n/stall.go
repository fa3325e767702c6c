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
type stallDetector struct {
	mu       sync.Mutex
	received uint64 // read so far
	position wire.Position

	// The watchdog's own: since when, from which count and in which frame it waits for
	// enough.
	since     time.Duration
	base      uint64
	frame     uint64
	suspected bool // too few bytes had come when the watchdog last looked
}

// begin is called before there is a reader or a watchdog.
func (a *stallDetector) start(now time.Duration, at wire.Position) { a.since, a.position = now, at }

// note is called by the lane's reader: so many more bytes have come, and the assembler
// stands there.
func (a *stallDetector) record(bytes int, at wire.Position) {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.received += uint64(bytes)
	a.position = at
}

// look is called by the watchdog. It returns an error where fewer than least bytes of
// the present frame have come within limit.
func (a *stallDetector) check(now, limit time.Duration, least int) error {
	a.mu.Lock()
	defer a.mu.Unlock()
	came, wait := a.received-a.base, now-a.since
	switch {
	case a.position.AtBoundary() || a.position.Seq != a.frame || came >= uint64(least):
		a.since, a.base, a.frame, a.suspected = now, a.received, a.position.Seq, false
	case wait > limit && a.suspected:
		return fmt.Errorf("%w: %v are missing, and %d bytes came in %v: at least %d should within %v",
			ErrSilent, a.position, came, wait.Round(time.Millisecond), least, limit)
	default:
		a.suspected = wait > limit // the reader may be late: it gets one more interval
	}
	return nil
}

// missing says what of a frame is to come, for an error: nothing between two.
func (a *stallDetector) missing() string {
	a.mu.Lock()
	defer a.mu.Unlock()
	if a.position.AtBoundary() {
		return ""
	}
	return fmt.Sprintf("; %v are missing", a.position)
}
