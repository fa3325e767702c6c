package cluster

import (
	"context"
	"log/slog"
	"sync"
	"time"
)

// quietLog is a log that strangers cannot fill: of each kind of line that they
// cause, it has some at once and then one in a while, which tells how many there were.
type quietLog struct {
	*slog.Logger

	mu    sync.Mutex
	kinds map[string]*allowance
}

// allowance is what a kind of line may still have.
type allowance struct {
	lines int
	at    time.Time // as of when
	left  int       // lines left out since the last
}

// Lines of a kind: so many at once, and one more after each pause.
const (
	oftenBurst = 20
	oftenPause = time.Second
)

func newQuietLog(l *slog.Logger) *quietLog {
	return &quietLog{Logger: l, kinds: map[string]*allowance{}}
}

// often logs a kind of event that strangers cause.
func (l *quietLog) often(kind string, args ...any) {
	left, ok := l.allow(kind, time.Now())
	if !ok {
		return
	}
	if left > 0 {
		args = append(args, "more", left)
	}
	l.Log(context.Background(), slog.LevelWarn, kind, args...) //nolint:sloglint // the callers' constants
}

// allow says whether a kind may have a line now, and how many were left out before.
func (l *quietLog) allow(kind string, now time.Time) (left int, ok bool) {
	l.mu.Lock()
	defer l.mu.Unlock()
	a := l.kinds[kind]
	if a == nil {
		a = &allowance{lines: oftenBurst, at: now}
		l.kinds[kind] = a
	}
	if more := int(now.Sub(a.at) / oftenPause); more > 0 {
		a.lines, a.at = min(a.lines+more, oftenBurst), now
	}
	if a.lines == 0 {
		a.left++
		return 0, false
	}
	left, a.left = a.left, 0
	a.lines--
	return left, true
}
