// Package connlog owns what a server says in its log of connections that fail:
// every kind of failure, and no more lines than an operator can read, whoever
// connects and however often. It may not know what the server serves.
package connlog

import (
	"bytes"
	"context"
	"log"
	"log/slog"
	"strings"
	"sync"
	"time"
)

// Of failed connections, so many are logged in so much time; of the others, how
// many there were.
const (
	burst = 10
	span  = time.Minute
)

// New returns what net/http's Server.ErrorLog wants. TLS handshakes that fail are
// logged as warnings, at a bounded rate; those whose other end just left, as a
// health check by TCP does, and whatever else the server says, at the given level.
func New(to *slog.Logger, level slog.Level) *log.Logger {
	return log.New(&writer{to: to, level: level, now: time.Now}, "", 0)
}

// writer takes lines of net/http.
type writer struct {
	to    *slog.Logger
	level slog.Level
	now   func() time.Time

	mu      sync.Mutex
	since   time.Time // when the span began
	logged  int       // lines of this span
	omitted int       // lines that were left out in it
}

// The form of net/http's line about a handshake.
const (
	handshake = "http: TLS handshake error from "
	left      = ": EOF"
)

// Write logs a line.
func (w *writer) Write(line []byte) (int, error) {
	text := string(bytes.TrimSpace(line))
	level := w.level
	failure, is := strings.CutPrefix(text, handshake)
	is = is && !strings.HasSuffix(text, left)
	if is {
		level = slog.LevelWarn
	}
	ctx := context.Background()
	if !w.to.Enabled(ctx, level) {
		return len(line), nil
	}
	if !is {
		w.to.Log(ctx, level, text)
		return len(line), nil
	}
	if omitted, ok := w.admit(); ok {
		from, reason, _ := strings.Cut(failure, ": ")
		attrs := []any{"from", from, "reason", reason}
		if omitted > 0 {
			attrs = append(attrs, "left_out_before", omitted)
		}
		w.to.Log(ctx, level, "a TLS handshake failed", attrs...)
	}
	return len(line), nil
}

// admit says whether a line may be logged now, and how many were left out since
// the last span.
func (w *writer) admit() (omitted int, ok bool) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if now := w.now(); now.Sub(w.since) >= span {
		omitted = w.omitted
		w.since, w.logged, w.omitted = now, 0, 0
	}
	if w.logged == burst {
		w.omitted++
		return 0, false
	}
	w.logged++
	return omitted, true
}
