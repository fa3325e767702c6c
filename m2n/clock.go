package m2n

import "time"

// started is the origin of the engine's monotonic times, which fit into atomics.
var started = time.Now()

// now is the time since started.
func now() time.Duration { return time.Since(started) }
