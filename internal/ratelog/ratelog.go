// Package ratelog owns the rate of log lines that others cause: clients that err,
// connections that fail, processes that do not belong to the cluster. Of each
// message an operator gets some lines at once and then one in a while, which says
// how many were left out, so that nobody fills a log by connecting often. It may
// not know what a line is about.
package ratelog

import (
	"context"
	"log/slog"
	"sync"
	"time"
)

// Of each message so many lines are logged at once, and one more after each pause.
const (
	burst = 10
	pause = 6 * time.Second
)

// Logger is a log with a second way to write, Limited, for lines that others cause.
type Logger struct {
	*slog.Logger
	now func() time.Time

	mu      sync.Mutex
	buckets map[string]*bucket // by message
}

// New returns a logger that writes to another one.
func New(to *slog.Logger) *Logger {
	return &Logger{Logger: to, now: time.Now, buckets: map[string]*bucket{}}
}

// Limited logs a line, or leaves it out where its message had too many; the
// attribute "omitted" of the next line is how many were left out. The message is a
// constant of the program: what is kept of each is never dropped.
func (l *Logger) Limited(level slog.Level, message string, args ...any) {
	ctx := context.Background()
	if !l.Enabled(ctx, level) {
		return
	}
	omitted, ok := l.take(message)
	if !ok {
		return
	}
	if omitted > 0 {
		args = append(args, "omitted", omitted)
	}
	l.Log(ctx, level, message, args...) //nolint:sloglint // the callers' constants
}

// take asks the message's bucket for a line.
func (l *Logger) take(message string) (omitted int, ok bool) {
	l.mu.Lock()
	defer l.mu.Unlock()
	b := l.buckets[message]
	if b == nil {
		b = &bucket{lines: burst, filled: l.now()}
		l.buckets[message] = b
	}
	return b.take(l.now())
}

// bucket is a token bucket: a line takes a token, and time brings new ones.
type bucket struct {
	lines   int       // that may be logged now
	filled  time.Time // when lines last grew
	omitted int       // lines left out since the last that was logged
}

// take says whether a line may be logged, and how many were left out before it.
func (b *bucket) take(now time.Time) (omitted int, ok bool) {
	since := now.Sub(b.filled).Truncate(pause)
	if since > 0 {
		b.lines = min(b.lines+int(since/pause), burst)
		b.filled = b.filled.Add(since)
	}
	if b.lines == 0 {
		b.omitted++
		return 0, false
	}
	b.lines--
	omitted, b.omitted = b.omitted, 0
	return omitted, true
}
