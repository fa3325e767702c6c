package kernel

import (
	"fmt"
	"unsafe"
)

// cacheLine is the alignment of every buffer, in bytes.
const cacheLine = 64

// mappedFrom is the size from which memory is mapped outside Go's heap. There
// it can be given back at once, huge pages can be asked for (one thread of a Zen
// 4 read 32 GB/s from them and 14 from pages of 4 KiB), and gigabytes of weights
// do not make the collector wait for gigabytes of garbage.
const mappedFrom = 1 << 20

// memory is a zeroed, aligned piece of host memory.
type memory struct {
	bytes  []byte
	mapped []byte // what to unmap, or nil on the heap
}

// allocate returns n zeroed bytes, aligned to a cache line.
func allocate(n int) (memory, error) {
	if n >= mappedFrom {
		mapped, err := mapMemory(n)
		if err != nil {
			return memory{}, fmt.Errorf("map %d bytes: %w", n, err)
		}
		if mapped != nil {
			return memory{bytes: mapped[:n:n], mapped: mapped}, nil
		}
	}
	return memory{bytes: alignedBytes(n)}, nil
}

// alignedBytes returns n zeroed bytes of Go's heap, aligned to a cache line.
func alignedBytes(n int) []byte {
	raw := make([]byte, n+cacheLine-1)
	skip := -int(uintptr(unsafe.Pointer(unsafe.SliceData(raw)))) & (cacheLine - 1)
	return raw[skip : skip+n : skip+n]
}

// release gives mapped memory back to the system; it must not be used again.
func (m memory) release() {
	if m.mapped != nil {
		unmapMemory(m.mapped)
	}
}
