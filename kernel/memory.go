package kernel

import (
	"fmt"
	"os"
	"sync"
	"unsafe"
)

// cacheLine is the alignment of every buffer, in bytes.
const cacheLine = 64

// mappedFrom is the size from which memory lies outside Go's heap. There it can be
// given back at once, huge pages can be asked for (one thread of a Zen 4 read 32
// GB/s from them and 14 from pages of 4 KiB), and gigabytes of weights do not make
// the collector wait for gigabytes of garbage.
const mappedFrom = 64 << 10

// Sizes of mappings.
const (
	hugePage = 2 << 20
	// regionBytes are mapped at a time. Pages that are never written take no memory.
	regionBytes = 64 << 20
	mostMapped  = 1 << 56
)

// memory is a zeroed, aligned piece of host memory.
type memory struct {
	bytes  []byte
	mapped []byte // the mapping to give back, or nil where bytes are on the heap
}

// release gives mapped memory back to the system; it must not be used again.
func (m memory) release() {
	if m.mapped != nil {
		unmapMemory(m.mapped)
	}
}

// arena cuts memory from regions of whole huge pages. So a piece smaller than a huge
// page, as an expert's matrix often is, lies in huge pages too. Pieces are unmapped one
// by one, and their addresses are not used again.
type arena struct {
	mu   sync.Mutex
	rest []byte // of the region, not handed out
}

// allocate returns n zeroed bytes, aligned to a cache line.
func (a *arena) allocate(n int) (memory, error) {
	if n < mappedFrom {
		return memory{bytes: alignedBytes(n)}, nil
	}
	if n > mostMapped {
		return memory{}, fmt.Errorf("map %d bytes: more than any machine has", n)
	}
	mapped, err := a.take(roundUp(n, os.Getpagesize()))
	if err != nil {
		return memory{}, fmt.Errorf("map %d bytes: %w", n, err)
	}
	if mapped == nil {
		return memory{bytes: alignedBytes(n)}, nil
	}
	return memory{bytes: mapped[:n:n], mapped: mapped}, nil
}

// take returns n bytes of the region, or of a mapping of their own where they are
// many; nil where memory cannot be mapped.
func (a *arena) take(n int) ([]byte, error) {
	if n >= regionBytes/2 {
		return mapAligned(n)
	}
	a.mu.Lock()
	defer a.mu.Unlock()
	if n > len(a.rest) {
		region, err := mapAligned(regionBytes)
		if region == nil || err != nil {
			return nil, err
		}
		a.dropRest()
		a.rest = region
	}
	piece := a.rest[:n:n]
	a.rest = a.rest[n:]
	return piece, nil
}

// close unmaps the rest of the region. Pieces that have been handed out stay.
func (a *arena) close() {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.dropRest()
}

func (a *arena) dropRest() {
	if len(a.rest) > 0 {
		unmapMemory(a.rest)
	}
	a.rest = nil
}

// mapAligned maps n bytes, a whole number of pages, from the beginning of a huge
// page, and asks for such pages.
func mapAligned(n int) ([]byte, error) {
	whole, err := mapMemory(n + hugePage)
	if whole == nil || err != nil {
		return nil, err
	}
	skip := -int(uintptr(unsafe.Pointer(unsafe.SliceData(whole)))) & (hugePage - 1)
	if skip > 0 {
		unmapMemory(whole[:skip])
	}
	unmapMemory(whole[skip+n:])
	b := whole[skip:][:n:n]
	adviseHuge(b)
	return b, nil
}

func roundUp(n, unit int) int { return (n + unit - 1) / unit * unit }

// alignedBytes returns n zeroed bytes of Go's heap, aligned to a cache line.
func alignedBytes(n int) []byte {
	raw := make([]byte, n+cacheLine-1)
	skip := -int(uintptr(unsafe.Pointer(unsafe.SliceData(raw)))) & (cacheLine - 1)
	return raw[skip : skip+n : skip+n]
}
