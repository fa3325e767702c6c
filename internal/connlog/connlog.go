// Package connlog owns what a server says in its log of connections that fail:
// every kind of failure, and no more lines than an operator can read, whoever
// connects and however often. It may not know what the server serves.
package connlog

import (
	"bytes"
	"io"
	"log"
	"log/slog"
	"strings"

	"github.com/tandem-moe/tandem/internal/ratelog"
)

// Log takes what happens to connections.
type Log struct {
	to    *ratelog.Logger
	level slog.Level
}

// New returns a log. TLS handshakes that fail are warnings; those whose other end
// just left, as a health check by TCP does, and whatever else a server says, have
// the given level. Of each, the number of lines is bounded.
func New(to *slog.Logger, level slog.Level) *Log { return &Log{ratelog.New(to), level} }

// Server is what net/http's Server.ErrorLog wants.
func (l *Log) Server() *log.Logger { return log.New(lines{l}, "", 0) }

// Failed notes that a handshake failed, and with whom.
func (l *Log) Failed(from, reason string) {
	if reason == io.EOF.Error() {
		l.to.Limited(l.level, "a connection ended before its TLS handshake", "from", from)
		return
	}
	l.to.Limited(slog.LevelWarn, "a TLS handshake failed", "from", from, "reason", reason)
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
		w.log.to.Limited(w.log.level, "the HTTP server", "says", text)
	}
	return len(line), nil
}
