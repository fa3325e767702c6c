//go:build ucx && cgo

package ucx

// #include "shim.h"
import "C"

import (
	"fmt"
	"runtime"
	"unsafe"

	"github.com/tandem-moe/tandem/m2n"
)

// memory is the regions that are registered with the hardware, and pinned.
type memory map[*m2n.Region]*registration

type registration struct {
	handle unsafe.Pointer // of UCX, in C's memory; nil for an empty region
	pin    runtime.Pinner
	uses   int
}

// base is the address of a region, nil where the region is empty.
func base(r *m2n.Region) unsafe.Pointer { return unsafe.Pointer(unsafe.SliceData(r.Bytes)) }

// Register registers a region until the fabric is closed.
func (f *Fabric) Register(r *m2n.Region) error {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.shim == nil {
		return errClosed
	}
	_, err := f.memory.acquire(f.shim, r)
	return err
}

// acquire registers a region, or counts one more use of a region that is registered.
func (m memory) acquire(s *C.struct_shim, r *m2n.Region) (*registration, error) {
	if reg := m[r]; reg != nil {
		reg.uses++
		return reg, nil
	}
	reg := &registration{uses: 1}
	if len(r.Bytes) > 0 {
		reg.pin.Pin(base(r))
		if status := C.shim_register(s, base(r), C.size_t(len(r.Bytes)), &reg.handle); status != 0 {
			reg.pin.Unpin()
			return nil, fmt.Errorf("ucx: registering %d bytes: %w (ulimit -l bounds what may be locked)", len(r.Bytes), statusError(status))
		}
	}
	m[r] = reg
	return reg, nil
}

// release ends one use of a region.
func (m memory) release(s *C.struct_shim, r *m2n.Region) {
	reg := m[r]
	if reg.uses--; reg.uses == 0 {
		reg.end(s)
		delete(m, r)
	}
}

func (m memory) releaseAll(s *C.struct_shim) {
	for r, reg := range m {
		reg.end(s)
		delete(m, r)
	}
}

func (r *registration) end(s *C.struct_shim) {
	if r.handle != nil {
		C.shim_unregister(s, r.handle)
	}
	r.pin.Unpin()
}

// sends are the messages under way, by the number that the shim has for each.
type sends struct {
	all  []*sending
	free []uint64
}

// sending keeps the memory of one message pinned and registered.
type sending struct {
	token uint64
	pins  runtime.Pinner
	uses  []*m2n.Region // that are registered for this message
}

// begin returns a free number for a message.
func (f *Fabric) begin(token uint64) (uint64, *sending) {
	t := &f.sends
	if len(t.free) == 0 {
		t.free = append(t.free, uint64(len(t.all)))
		t.all = append(t.all, new(sending))
	}
	last := len(t.free) - 1
	id := t.free[last]
	t.free = t.free[:last]
	t.all[id].token = token
	return id, t.all[id]
}

// hold pins and registers a region while s is under way. It returns the registration,
// which is empty for a region that is not registered.
func (f *Fabric) hold(s *sending, r *m2n.Region) *registration {
	reg := f.memory[r]
	if reg == nil {
		s.pins.Pin(base(r))
		return new(registration)
	}
	reg.uses++
	s.uses = append(s.uses, r)
	return reg
}

// end releases the memory of a message, and returns the message's token.
func (f *Fabric) end(id uint64) uint64 {
	s := f.sends.all[id]
	f.letGo(s)
	f.sends.free = append(f.sends.free, id)
	return s.token
}

func (f *Fabric) letGo(s *sending) {
	s.pins.Unpin()
	for _, r := range s.uses {
		f.memory.release(f.shim, r)
	}
	s.uses = s.uses[:0]
}

// endAll releases the memory of all messages, once nothing is under way any more.
func (f *Fabric) endAll() {
	for _, s := range f.sends.all {
		f.letGo(s)
	}
	f.sends = sends{}
}
