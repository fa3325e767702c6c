package m2n

import (
	"fmt"
	"slices"
	"sync"
	"sync/atomic"

	"github.com/tandem-moe/tandem/m2n/internal/shm"
)

// slots is the receive memory of one connection. It goes back to its owner when
// the connection has ended and the last message is released.
type receiveWindow struct {
	region     *Region
	freeMemory func()
	stride     int

	mu    sync.Mutex
	empty []int // slots that hold no message
	held  int   // those that do
	refs  int   // held, and the connection
}

func newReceiveWindow(e *Endpoint) (*receiveWindow, error) {
	s := e.newWindow()
	var err error
	if s.region, err = e.alloc(s.stride * e.cfg.Slots); err != nil {
		return nil, fmt.Errorf("receive memory of %d slots of %d bytes: %w", e.cfg.Slots, s.stride, err)
	}
	s.freeMemory = func() { e.free(s.region) }
	return s, nil
}

// free gives memory of Config.Alloc back.
func (e *Endpoint) free(r *Region) {
	if e.cfg.Free != nil {
		e.cfg.Free(r)
	}
}

// emptySlots are slots without memory.
func (e *Endpoint) newWindow() *receiveWindow {
	s := &receiveWindow{stride: shm.Stride(e.cfg.SlotBytes), freeMemory: func() {}, refs: 1}
	for i := range e.cfg.Slots {
		s.empty = append(s.empty, e.cfg.Slots-1-i)
	}
	return s
}

func (e *Endpoint) alloc(n int) (*Region, error) {
	if e.cfg.Alloc == nil {
		return &Region{Bytes: make([]byte, n)}, nil
	}
	e.allocMu.Lock()
	defer e.allocMu.Unlock()
	r, err := e.cfg.Alloc(n)
	if err == nil && len(r.Bytes) < n {
		err = fmt.Errorf("Config.Alloc returned %d bytes, asked for %d", len(r.Bytes), n)
		e.free(r)
	}
	return r, err
}

// take returns an empty slot; false where the peer sends without a credit.
func (s *receiveWindow) claimAny() (int, bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if len(s.empty) == 0 {
		return 0, false
	}
	i := s.empty[len(s.empty)-1]
	s.empty = s.empty[:len(s.empty)-1]
	s.held++
	s.refs++
	return i, true
}

// takeThis takes the slot that a peer has chosen; false where it holds a message.
func (s *receiveWindow) claim(slot int) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	i := slices.Index(s.empty, slot)
	if i < 0 {
		return false
	}
	s.empty = slices.Delete(s.empty, i, i+1)
	s.held++
	s.refs++
	return true
}

// put gives a slot back.
func (s *receiveWindow) free(i int) {
	s.mu.Lock()
	s.empty = append(s.empty, i)
	s.held--
	s.mu.Unlock()
	s.release()
}

// taken counts the slots that hold a message.
func (s *receiveWindow) inUse() int {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.held
}

// ref is one more hold on the memory, until unref.
func (s *receiveWindow) retain() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.refs++
}

// unref drops the connection's or a message's hold on the memory.
func (s *receiveWindow) release() {
	s.mu.Lock()
	s.refs--
	last := s.refs == 0
	s.mu.Unlock()
	if last {
		s.freeMemory()
	}
}

// spans cuts slot i as the sender did.
func (s *receiveWindow) spans(i int, lengths []int) []Span {
	out := slices.Grow([]Span(nil), len(lengths))
	at := i * s.stride
	for _, n := range lengths {
		out = append(out, Span{Region: s.region, Off: at, Len: n})
		at += n
	}
	return out
}

// bytes is the first n bytes of slot i.
func (s *receiveWindow) bytes(i, n int) []byte { return s.region.Bytes[i*s.stride:][:n] }

// slotReceipt is a message in a slot.
type slotReceipt struct {
	link     *wireLink
	slot     int
	released atomic.Bool
}

func (r *slotReceipt) release() {
	if !r.released.Swap(true) {
		r.link.releaseSlot(r.slot)
	}
}

func (r *slotReceipt) drop() { r.release() }
