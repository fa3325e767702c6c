package cluster

import (
	"context"
	"log/slog"
	"sync"
	"time"
)

// quietLog is a log that strangers cannot fill: of the lines that any stranger
// causes, it has one in a while, which tells how many there were.
type quietLog struct {
	*slog.Logger

	mu    sync.Mutex
	next  map[string]time.Time
	since map[string]int
}

// oftenPause is the time between two lines of one kind.
const oftenPause = time.Second

func newQuietLog(l *slog.Logger) *quietLog {
	return &quietLog{Logger: l, next: map[string]time.Time{}, since: map[string]int{}}
}

// often logs a kind of event that strangers cause.
func (l *quietLog) often(kind string, args ...any) {
	l.mu.Lock()
	now := time.Now()
	if now.Before(l.next[kind]) {
		l.since[kind]++
		l.mu.Unlock()
		return
	}
	if more := l.since[kind]; more > 0 {
		args = append(args, "more", more)
	}
	l.next[kind], l.since[kind] = now.Add(oftenPause), 0
	l.mu.Unlock()
	l.Log(context.Background(), slog.LevelWarn, kind, args...)
}
