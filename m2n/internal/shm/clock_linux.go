package shm

import (
	"fmt"

	"golang.org/x/sys/unix"
)

// hostClock reads the clock that Go's monotonic times are taken from.
func hostClock() int64 {
	var t unix.Timespec
	if err := unix.ClockGettime(unix.CLOCK_MONOTONIC, &t); err != nil {
		panic(fmt.Sprintf("m2n: this system has no monotonic clock: %v", err))
	}
	return t.Nano()
}
