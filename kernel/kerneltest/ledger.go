package kerneltest

import (
	"errors"
	"fmt"
	"sync"

	"github.com/tandem-moe/tandem/kernel"
)

// ErrOutOfMemory is the error of the allocation that a Ledger has fail.
var ErrOutOfMemory = errors.New("out of device memory")

// Ledger is a device that keeps account of its buffers, and fails one allocation. Code
// that allocates several buffers must then give back those that it had allocated
// before. Freeing a buffer twice, or one that is not of the device, panics.
type Ledger struct {
	kernel.Device

	mu      sync.Mutex
	live    map[kernel.Buffer]bool
	counted int // allocations since FailAt
	failAt  int
}

// NewLedger returns dev with an account.
func NewLedger(dev kernel.Device) *Ledger {
	return &Ledger{Device: dev, live: map[kernel.Buffer]bool{}}
}

// FailAt has the n-th allocation from now on fail, counted from 1: of buffers,
// vectors, weights or tables of rotations. 0 means none.
func (l *Ledger) FailAt(n int) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.counted, l.failAt = 0, n
}

// Failed tells whether the allocation that was to fail has been tried.
func (l *Ledger) Failed() bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.failAt > 0 && l.counted >= l.failAt
}

// Live is the number of buffers that have not been freed.
func (l *Ledger) Live() int {
	l.mu.Lock()
	defer l.mu.Unlock()
	return len(l.live)
}

// count counts an allocation.
func (l *Ledger) count() error {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.counted++
	if l.counted == l.failAt {
		return fmt.Errorf("allocation %d: %w", l.counted, ErrOutOfMemory)
	}
	return nil
}

// enter notes a buffer that make makes.
func (l *Ledger) enter(make func() (kernel.Buffer, error)) (kernel.Buffer, error) {
	if err := l.count(); err != nil {
		return nil, err
	}
	b, err := make()
	if err != nil {
		return nil, err
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	l.live[b] = true
	return b, nil
}

// Alloc is the device's.
func (l *Ledger) Alloc(kind kernel.MemoryKind, t kernel.DType, n int) (kernel.Buffer, error) {
	return l.enter(func() (kernel.Buffer, error) { return l.Device.Alloc(kind, t, n) })
}

// Adopt is the device's.
func (l *Ledger) Adopt(t kernel.DType, mem []byte) (kernel.Buffer, error) {
	return l.enter(func() (kernel.Buffer, error) { return l.Device.Adopt(t, mem) })
}

// Vector is the device's.
func (l *Ledger) Vector(t kernel.DType, data []byte) (kernel.Buffer, error) {
	return l.enter(func() (kernel.Buffer, error) { return l.Device.Vector(t, data) })
}

// Pack is the device's. Weights go by themselves.
func (l *Ledger) Pack(parts ...kernel.HostMatrix) (kernel.Weight, error) {
	if err := l.count(); err != nil {
		return nil, err
	}
	return l.Device.Pack(parts...)
}

// NewRope is the device's. Tables go by themselves.
func (l *Ledger) NewRope(inv []float32, scale float32, positions int) (kernel.Rope, error) {
	if err := l.count(); err != nil {
		return nil, err
	}
	return l.Device.NewRope(inv, scale, positions)
}

// Free is the device's.
func (l *Ledger) Free(b kernel.Buffer) {
	l.mu.Lock()
	known := l.live[b]
	delete(l.live, b)
	l.mu.Unlock()
	if !known {
		panic(fmt.Sprintf("kerneltest: free of a %T that is not there, or not any more", b))
	}
	l.Device.Free(b)
}
