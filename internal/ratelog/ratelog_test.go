package ratelog

import (
	"bytes"
	"fmt"
	"log/slog"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

// TestLimited: a flood leaves a burst of lines, and the next line says how many were
// left out; other messages have a burst of their own.
func TestLimited(t *testing.T) {
	var out bytes.Buffer
	clock := time.Unix(1000, 0)
	l := New(slog.New(slog.NewTextHandler(&out, nil)))
	l.now = func() time.Time { return clock }
	lines := func() int {
		n := strings.Count(out.String(), "\n")
		out.Reset()
		return n
	}
	flood := func() {
		for range 1000 {
			l.Limited(slog.LevelWarn, "a")
		}
	}
	flood()
	require.Equal(t, burst, lines())
	l.Limited(slog.LevelInfo, "b", "why", 1)
	require.Contains(t, out.String(), "level=INFO msg=b why=1\n")
	out.Reset()

	clock = clock.Add(pause)
	l.Limited(slog.LevelWarn, "a", "why", 2)
	require.Contains(t, out.String(), fmt.Sprintf("level=WARN msg=a why=2 omitted=%d\n", 1000-burst))
	out.Reset()
	flood()
	require.Zero(t, lines(), "one line for one pause")

	clock = clock.Add(time.Hour)
	flood()
	require.Equal(t, burst, lines(), "an hour of silence saves no more than a burst")

	for range 1000 {
		l.Limited(slog.LevelDebug, "c")
	}
	l.Limited(slog.LevelWarn, "c")
	require.NotContains(t, out.String(), "omitted", "what the level hides is not left out")
}

// TestSteadyRate: lines that come faster than the pause pass once in each pause,
// however they fall into it.
func TestSteadyRate(t *testing.T) {
	start := time.Unix(1000, 0)
	b := &bucket{lines: burst, filled: start}
	passed := 0
	for at := time.Duration(0); at <= 100*pause; at += pause * 2 / 3 {
		if _, ok := b.take(start.Add(at)); ok {
			passed++
		}
	}
	require.Equal(t, burst+100, passed)
}
