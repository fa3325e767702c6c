// Package connlog owns what a server says in its log of connections that fail:
// every kind of failure, and no more lines than an operator can read, whoever
// connects and however often. It may not know what the server serves.
package connlog

import (
	"bytes"
	"context"
	"io"
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

// Log takes what happens to connections.
type Log struct {
	to    *slog.Logger
	level slog.Level
	now   func() time.Time

	mu      sync.Mutex
	since   time.Time // when the span began
	logged  int       // lines of this span
	omitted int       // lines that were left out in it
}

// New returns a log. TLS handshakes that fail are warnings, at a bounded rate; those
// whose other end just left, as a health check by TCP does, and whatever else a
// server says, have the given level.
func New(to *slog.Logger, level slog.Level) *Log { return &Log{to: to, level: level, now: time.Now} }

// Server is what net/http's Server.ErrorLog wants.
func (l *Log) Server() *log.Logger { return log.New(lines{l}, "", 0) }

// Failed notes that a handshake failed, and with whom.
func (l *Log) Failed(from, reason string) {
	ctx := context.Background()
	if reason == io.EOF.Error() {
		l.to.Log(ctx, l.level, "a connection ended before its TLS handshake", "from", from)
		return
	}
	if !l.to.Enabled(ctx, slog.LevelWarn) {
		return
	}
	if omitted, ok := l.admit(); ok {
		attrs := []any{"from", from, "reason", reason}
		if omitted > 0 {
			attrs = append(attrs, "left_out_before", omitted)
		}
		l.to.Warn("a TLS handshake failed", attrs...)
	}
}

// lines takes those of net/http.
type lines struct{ log *Log }

// handshake begins net/http's line about one that failed.
const handshake = "http: TLS handshake error from "

// Write logs a line.
func (w lines) Write(line []byte) (int, error) {
	text := string(bytes.TrimSpace(line))
	if failure, is := strings.CutPrefix(text, handshake); is {
		from, reason, _ := strings.Cut(failure, ": ")
		w.log.Failed(from, reason)
	} else {
		w.log.to.Log(context.Background(), w.log.level, "the HTTP server", "says", text)
	}
	return len(line), nil
}

// admit says whether a line may be logged now, and how many were left out since
// the last span.
func (l *Log) admit() (omitted int, ok bool) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if now := l.now(); now.Sub(l.since) >= span {
		omitted = l.omitted
		l.since, l.logged, l.omitted = now, 0, 0
	}
	if l.logged == burst {
		l.omitted++
		return 0, false
	}
	l.logged++
	return omitted, true
}
