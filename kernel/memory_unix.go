//go:build unix

package kernel

import (
	"fmt"

	"golang.org/x/sys/unix"
)

// mapMemory returns at least n zeroed bytes from the system.
func mapMemory(n int) ([]byte, error) {
	b, err := unix.Mmap(-1, 0, n, unix.PROT_READ|unix.PROT_WRITE, unix.MAP_ANON|unix.MAP_PRIVATE)
	if err != nil {
		return nil, err
	}
	adviseHuge(b)
	return b, nil
}

func unmapMemory(b []byte) {
	if err := unix.Munmap(b); err != nil {
		panic(fmt.Sprintf("kernel: unmap %d bytes: %v", len(b), err))
	}
}
