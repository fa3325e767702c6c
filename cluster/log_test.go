package cluster

import (
	"log/slog"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

// TestStrangersDoNotFillTheLog: a flood leaves a bounded number of lines, and how
// many there were.
func TestStrangersDoNotFillTheLog(t *testing.T) {
	l := newQuietLog(slog.New(slog.DiscardHandler))
	now := time.Unix(0, 0)
	lines := 0
	for range 1000 {
		if _, ok := l.allow("a", now); ok {
			lines++
		}
	}
	require.Equal(t, oftenBurst, lines)
	_, ok := l.allow("b", now)
	require.True(t, ok, "another kind has its own")
	left, ok := l.allow("a", now.Add(oftenPause))
	require.True(t, ok)
	require.Equal(t, 1000-oftenBurst, left)
	_, ok = l.allow("a", now.Add(oftenPause))
	require.False(t, ok)
	for range oftenBurst {
		_, ok = l.allow("a", now.Add(time.Hour))
		require.True(t, ok)
	}
	_, ok = l.allow("a", now.Add(time.Hour))
	require.False(t, ok, "an hour of silence saves no more than a burst")
}
