package api

import (
	"math"
	"syscall"
)

// openFiles is how many files the process may have open, connections among them.
func openFiles() int {
	var limit syscall.Rlimit
	if err := syscall.Getrlimit(syscall.RLIMIT_NOFILE, &limit); err != nil {
		return math.MaxInt32 // who cannot ask is not bounded by it
	}
	return int(min(limit.Cur, math.MaxInt32))
}
