package bench

import (
	"fmt"
	"syscall"
	"time"
)

// cpuTime is the processor time that this process has had.
func cpuTime() time.Duration {
	var u syscall.Rusage
	if err := syscall.Getrusage(syscall.RUSAGE_SELF, &u); err != nil {
		panic(fmt.Sprintf("processor time of this process: %v", err)) // it asks for its own
	}
	return time.Duration(u.Utime.Nano() + u.Stime.Nano())
}
