package shm

import (
	"math"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

// TestPostedAt: a time that a peer names as that of its post is believed where it can
// be, and replaced by now elsewhere.
func TestPostedAt(t *testing.T) {
	now := hostNanos(time.Now())
	for _, nanos := range []int64{math.MinInt64, now - 2*int64(longestWait), now + int64(time.Hour), math.MaxInt64} {
		require.WithinDuration(t, time.Now(), postedAt(nanos), 30*time.Second)
	}
	require.WithinDuration(t, time.Now().Add(-time.Minute), postedAt(now-int64(time.Minute)), 30*time.Second)
}
