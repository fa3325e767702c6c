package shm

import "time"

// started is a moment in this process's monotonic time, and startedHost the same
// moment by the monotonic clock that all processes of the host share.
var (
	started     = time.Now()
	startedHost = hostClock()
)

func hostNanos(t time.Time) int64 { return startedHost + int64(t.Sub(started)) }

// longestWait bounds how long a peer may say that a message has been on its way.
const longestWait = time.Hour

// postedAt is the time that a peer names as that of its post. A time that cannot be
// is replaced by now, so that no sum of times is ruined by one peer.
func postedAt(nanos int64) time.Time {
	now := hostNanos(time.Now())
	if nanos > now || nanos < now-int64(longestWait) {
		nanos = now
	}
	return started.Add(time.Duration(nanos - startedHost))
}
