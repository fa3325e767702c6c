package m2n

import (
	"fmt"
	"sync"
	"time"

	"github.com/tandem-moe/tandem/m2n/internal/wire"
)

// stallDetector finds a frame that has begun to come and does not get on. The lane's
// reader records what comes, and the watchdog checks.
//
// Silence alone does not find such a frame: where a network has lost a part of a frame,
// the assembler takes the keep-alives that follow for the missing part, so the lane
// never falls silent and no frame is ever complete. So inside of a frame more bytes
// have to come than keep-alives bring.
type stallDetector struct {
	mu       sync.Mutex
	received uint64 // bytes
	position wire.Position

	// The watchdog's own: it waits since this time, in this frame, for bytes beyond
	// this count.
	since     time.Duration
	frame     uint64
	base      uint64
	suspected bool // at the last check too few bytes had come in time
}

// start is called before there is a reader or a watchdog.
func (d *stallDetector) start(now time.Duration, at wire.Position) { d.since, d.position = now, at }

// record is called by the reader: so many bytes have come, and the assembler is at that
// position now.
func (d *stallDetector) record(bytes int, at wire.Position) {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.received += uint64(bytes)
	d.position = at
}

// check is called by the watchdog. It returns an error where fewer than least bytes of
// the present frame have come within limit.
func (d *stallDetector) check(now, limit time.Duration, least int) error {
	d.mu.Lock()
	defer d.mu.Unlock()
	came, wait := d.received-d.base, now-d.since
	switch {
	case d.position.AtBoundary() || d.position.Seq != d.frame || came >= uint64(least):
		d.since, d.base, d.frame, d.suspected = now, d.received, d.position.Seq, false
	case wait > limit && d.suspected:
		return fmt.Errorf("%w: %v are missing, and %d bytes came in %v: at least %d should within %v",
			ErrSilent, d.position, came, wait.Round(time.Millisecond), least, limit)
	default:
		d.suspected = wait > limit // the reader may be late: the frame gets one more interval
	}
	return nil
}

// missing says for an error which part of a frame is still to come, "" between frames.
func (d *stallDetector) missing() string {
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.position.AtBoundary() {
		return ""
	}
	return fmt.Sprintf("; %v are missing", d.position)
}
