package kernel

import (
	"context"
	"fmt"
	"math"
	"sync"
	"time"
	"unsafe"
)

// CPUOptions says how a CPU device works; the zero value is the fastest of
// everything on a pool of its own.
type CPUOptions struct {
	// ISA is the instruction set; Auto is the best that the machine has.
	ISA ISA
	// Threads bounds how many threads take part in one operation, the caller
	// among them; 0 is all of the pool.
	Threads int
	// Pool does the work. One pool serves all devices of a process; nil makes
	// one of Threads workers that Close ends.
	Pool *Pool
}

// CPU is the device of host memory: operations have completed when they return,
// and a Buffer's Bytes are always current. Large buffers lie outside Go's heap
// and are lost unless they are freed.
type CPU struct {
	isa     ISA
	threads int
	pool    *Pool
	ownPool bool
	memory  arena
	scratch scratch
	tiles   sync.Pool // of *tile

	attention attention // kept for its memory
	router    router    // of the operation in hand
	failure   error     // of an event that the device waited for
}

var _ Device = (*CPU)(nil)

// NewCPU returns a CPU device, or an error where the machine lacks the
// instruction set.
func NewCPU(o CPUOptions) (*CPU, error) {
	isa, err := o.ISA.resolve()
	if err != nil {
		return nil, fmt.Errorf("cpu device: %w", err)
	}
	if o.Threads < 0 {
		return nil, fmt.Errorf("cpu device: %d threads", o.Threads)
	}
	c := &CPU{isa: isa, threads: o.Threads, pool: o.Pool}
	c.tiles.New = func() any { return new(tile) }
	if c.pool == nil {
		c.pool, c.ownPool = NewPool(o.Threads), true
	}
	if c.threads == 0 || c.threads > c.pool.Workers() {
		c.threads = c.pool.Workers()
	}
	return c, nil
}

// Properties describe the device, which is able to do everything. Its name tells the
// instruction set and the threads: "cpu avx512, 2 threads".
func (c *CPU) Properties() Properties {
	name := fmt.Sprintf("cpu %v, %d threads", c.isa, c.threads)
	if c.threads == 1 {
		name = fmt.Sprintf("cpu %v, 1 thread", c.isa)
	}
	return Properties{
		Name: name, Threads: c.threads,
		Memory:       []MemoryProperties{{Kind: DeviceMemory}, {Kind: HostVisible}},
		Matrices:     []DType{F32, F16, BF16, F8E4M3, F4E2M1, Q8},
		Capabilities: AllCapabilities,
	}
}

// ISA is the instruction set in use.
func (c *CPU) ISA() ISA { return c.isa }

// Threads is how many threads take part in an operation at most.
func (c *CPU) Threads() int { return c.threads }

// Close ends the pool where the device made it. Buffers stay until they are freed.
func (c *CPU) Close() error {
	c.memory.close()
	if c.ownPool {
		c.pool.Close()
	}
	return nil
}

// Alloc returns n elements of zeroed memory, aligned to 64 bytes. Both kinds are the
// host's memory. n is a whole number of t's blocks.
func (c *CPU) Alloc(kind MemoryKind, t DType, n int) (Buffer, error) {
	if kind > HostVisible || !t.Known() {
		return nil, fmt.Errorf("allocate %d elements of %v in %v: there is no such memory or type", n, t, kind)
	}
	elements, bytes := t.Block()
	if n < 0 || n%elements != 0 || n/elements > math.MaxInt/bytes {
		return nil, fmt.Errorf("allocate %d elements of %v", n, t)
	}
	mem, err := c.memory.allocate(t.Bytes(n))
	if err != nil {
		return nil, fmt.Errorf("allocate %d elements of %v: %w", n, t, err)
	}
	return &hostBuffer{dtype: t, n: n, mem: mem}, nil
}

// Adopt makes a buffer of the caller's memory, without a copy.
func (c *CPU) Adopt(t DType, mem []byte) (Buffer, error) {
	n, ok := t.Elements(len(mem))
	if at := uintptr(unsafe.Pointer(unsafe.SliceData(mem))); !ok || at%cacheLine != 0 {
		return nil, fmt.Errorf("adopt %d bytes at %#x as %v: want whole elements, aligned to %d bytes", len(mem), at, t, cacheLine)
	}
	return &hostBuffer{dtype: t, n: n, mem: memory{bytes: mem}}, nil
}

// Free gives the memory back; the buffer must not be used again.
func (c *CPU) Free(b Buffer) {
	h, ok := b.(*hostBuffer)
	if !ok {
		panic(fmt.Sprintf("kernel: free: a %T is not memory of the CPU device", b))
	}
	h.mem.release()
	h.mem = memory{}
}

// Load copies host bytes to elements off… of dst.
func (c *CPU) Load(dst Buffer, off int, src []byte) { copy(bytesAt("load", dst, off, len(src)), src) }

// Read copies elements off… of src to dst.
func (c *CPU) Read(dst []byte, src Buffer, off int) { copy(dst, bytesAt("read", src, off, len(dst))) }

// bytesAt is n bytes of a buffer from element off on.
func bytesAt(op string, b Buffer, off, n int) []byte {
	mem := bytesOf(b)
	at := b.DType().Bytes(off)
	if off < 0 || at+n > len(mem) {
		panic(fmt.Sprintf("kernel: %s %d bytes at byte %d of a buffer of %d", op, n, at, len(mem)))
	}
	return mem[at : at+n]
}

// Record returns an event that has completed, or failed where an event that the
// device waited for has.
func (c *CPU) Record() Event { return completed{c.failure} }

type completed struct{ failure error }

func (e completed) Wait(context.Context) error { return e.failure }

// eventTimeout bounds the wait for another device.
const eventTimeout = time.Minute

// WaitFor waits for another device's event. Operations that follow one that failed
// are computed all the same: Record tells that their operands may be anything.
func (c *CPU) WaitFor(e Event) {
	ctx, cancel := context.WithTimeout(context.Background(), eventTimeout)
	defer cancel()
	if err := e.Wait(ctx); err != nil && c.failure == nil {
		c.failure = fmt.Errorf("%s: another device's work: %w", c.Properties().Name, err)
	}
}

// Vector loads a checkpoint's vector, widened to F32.
func (c *CPU) Vector(t DType, data []byte) (Buffer, error) {
	n, ok := t.Elements(len(data))
	if !ok || t > BF16 {
		return nil, fmt.Errorf("vector of %v from %d bytes: want f32, f16 or bf16, a whole number of elements", t, len(data))
	}
	b, err := c.Alloc(DeviceMemory, F32, n)
	if err != nil {
		return nil, fmt.Errorf("vector: %w", err)
	}
	widen(f32s(b), t, data)
	return b, nil
}

// parallel runs fn over [0, n) in pieces of at least grain items, on as many
// threads as the device may use. A piece should be worth some microseconds; fn
// is called once, here, where the whole is no more than one piece.
func (c *CPU) parallel(n, grain int, fn func(lo, hi int)) {
	c.pool.Run(c.threads, n, grain, fn)
}

// scratch is memory that operations reuse. A device is used by one goroutine at
// a time, so that there is one of it.
type scratch struct {
	packed []float32
}

// grow returns n floats with undefined contents.
func (s *scratch) grow(n int) []float32 {
	if cap(s.packed) < n {
		s.packed = castSlice[float32](alignedBytes(4 * n))
	}
	return s.packed[:n]
}
