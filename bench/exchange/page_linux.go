package exchange

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"os"
	"sync/atomic"
	"time"
	"unsafe"

	"golang.org/x/sys/unix"
)

// pageMagic begins a page, "TANDEMX1".
const pageMagic = 0x31584d45444e4154

// header is the first part of a page. mpi/alltoallv.c has the same structure.
type header struct {
	magic     uint64
	bytes     uint64 // of a message
	senders   uint32
	receivers uint32
	messages  uint32 // of a pair and iteration
	_         [9]uint32

	command    atomic.Uint32 // number of the round that runs, or ran last; a futex
	iterations uint32        // of that round
	spin       uint32        // whether the barrier spins
	check      uint32        // whether receivers compare every byte
	stop       atomic.Uint32 // whether the ends shall end, instead of a round
	_          [11]uint32

	arrived    atomic.Uint32 // at the barrier
	_          [15]uint32
	generation atomic.Uint32 // of the barrier; a futex
	_          [15]uint32
	finished   atomic.Uint32 // ends that are done with the round; a futex
	_          [15]uint32
}

// member is what an end says of itself.
type member struct {
	cpu     int64 // nanoseconds of user and system time in the last round
	_       [7]uint64
	address [256]byte // of a receiver, ended by a zero
}

// The page's parts: header, one member per end (senders first), the starts of a
// round's iterations, and for each receiver when it held all of each.
const (
	headerSize = int(unsafe.Sizeof(header{}))
	memberSize = int(unsafe.Sizeof(member{}))
)

// page is memory that all ends of a contestant share.
type page struct {
	*header
	mem     []byte
	members []member
	starts  []int64   // of each iteration, nanoseconds of CLOCK_MONOTONIC
	done    [][]int64 // of each receiver and iteration
}

// createPage makes the page of a shape as a file.
func createPage(path string, s Shape) (*page, error) {
	size := headerSize + s.processes()*memberSize + (1+s.Receivers)*maxRound*8
	f, err := os.OpenFile(path, os.O_RDWR|os.O_CREATE|os.O_EXCL, 0o600)
	if err != nil {
		return nil, fmt.Errorf("shared page: %w", err)
	}
	defer f.Close()
	if err := f.Truncate(int64(size)); err != nil {
		return nil, fmt.Errorf("shared page: %w", err)
	}
	p, err := mapPage(f, size)
	if err != nil {
		return nil, err
	}
	p.header.bytes, p.senders, p.receivers = uint64(s.Bytes), uint32(s.Senders), uint32(s.Receivers)
	p.header.messages, p.magic = uint32(s.Messages), pageMagic
	p.divide()
	return p, nil
}

// openPage maps the page that another process has made.
func openPage(path string) (*page, error) {
	f, err := os.OpenFile(path, os.O_RDWR, 0)
	if err != nil {
		return nil, fmt.Errorf("shared page: %w", err)
	}
	defer f.Close()
	info, err := f.Stat()
	if err != nil {
		return nil, fmt.Errorf("shared page: %w", err)
	}
	if info.Size() < int64(headerSize) {
		return nil, fmt.Errorf("shared page %s has %d bytes, less than its header's %d", path, info.Size(), headerSize)
	}
	p, err := mapPage(f, int(info.Size()))
	if err != nil {
		return nil, err
	}
	s := p.shape()
	want := headerSize + s.processes()*memberSize + (1+s.Receivers)*maxRound*8
	if p.magic != pageMagic || int(info.Size()) != want {
		err := fmt.Errorf("shared page %s begins with %#x and has %d bytes, want %#x and %d", path, p.magic, info.Size(), uint64(pageMagic), want)
		p.close()
		return nil, err
	}
	p.divide()
	return p, nil
}

func mapPage(f *os.File, size int) (*page, error) {
	mem, err := unix.Mmap(int(f.Fd()), 0, size, unix.PROT_READ|unix.PROT_WRITE, unix.MAP_SHARED)
	if err != nil {
		return nil, fmt.Errorf("map shared page %s: %w", f.Name(), err)
	}
	return &page{header: (*header)(unsafe.Pointer(&mem[0])), mem: mem}, nil
}

// divide points to the page's parts.
func (p *page) divide() {
	s := p.shape()
	p.members = unsafe.Slice((*member)(unsafe.Pointer(&p.mem[headerSize])), s.processes())
	stamps := unsafe.Slice((*int64)(unsafe.Pointer(&p.mem[headerSize+s.processes()*memberSize])), (1+s.Receivers)*maxRound)
	p.starts = stamps[:maxRound]
	p.done = make([][]int64, s.Receivers)
	for r := range p.done {
		p.done[r] = stamps[(1+r)*maxRound:][:maxRound]
	}
}

func (p *page) close() { _ = unix.Munmap(p.mem) }

func (p *page) shape() Shape {
	return Shape{int(p.senders), int(p.receivers), int(p.header.bytes), int(p.header.messages)}
}

// setAddress and address are how receivers tell senders where they listen.
func (p *page) setAddress(receiver int, addr string) error {
	field := &p.members[int(p.senders)+receiver].address
	if len(addr) >= len(field) {
		return fmt.Errorf("address %q is longer than %d bytes", addr, len(field)-1)
	}
	copy(field[:], addr)
	return nil
}

func (p *page) address(receiver int) string {
	field := &p.members[int(p.senders)+receiver].address
	for i, b := range field {
		if b == 0 {
			return string(field[:i])
		}
	}
	return string(field[:])
}

// untimed is the iteration of a meeting that is not measured.
const untimed = -1

// meet waits at the barrier for all ends. The last to arrive stamps the start of
// the iteration.
func (p *page) meet(ctx context.Context, c *clock, iteration int) error {
	generation := p.generation.Load()
	if p.arrived.Add(1) < p.senders+p.receivers {
		return p.await(ctx, generation)
	}
	p.arrived.Store(0)
	if iteration != untimed {
		p.starts[iteration] = c.now()
	}
	p.generation.Add(1)
	if p.spin == 0 {
		wake(&p.generation)
	}
	return nil
}

// await waits until the barrier's generation is another one.
func (p *page) await(ctx context.Context, generation uint32) error {
	if p.spin == 0 {
		return waitWhile(ctx, &p.generation, generation)
	}
	for spins := 0; p.generation.Load() == generation; spins++ {
		if spins%spinsPerYield == 0 {
			// Others may need the core: a transport has threads of its own.
			_, _, _ = unix.RawSyscall(unix.SYS_SCHED_YIELD, 0, 0, 0)
		}
		if spins%spinsPerCheck == 0 && ctx.Err() != nil {
			return ctx.Err()
		}
	}
	return nil
}

const (
	spinsPerYield = 64
	spinsPerCheck = 1 << 14
)

// Operations of the system call futex, on memory that processes share.
const (
	futexWait = 0
	futexWake = 1
)

// glance bounds a wait in the kernel, so that a context's end is seen.
const glance = 100 * time.Millisecond

// waitWhile parks until the word has another value.
func waitWhile(ctx context.Context, word *atomic.Uint32, value uint32) error {
	timeout := unix.NsecToTimespec(int64(glance))
	for word.Load() == value {
		if err := ctx.Err(); err != nil {
			return err
		}
		_, _, errno := unix.Syscall6(unix.SYS_FUTEX, uintptr(unsafe.Pointer(word)), futexWait,
			uintptr(value), uintptr(unsafe.Pointer(&timeout)), 0, 0)
		switch {
		case errno == 0, errors.Is(errno, unix.EAGAIN), errors.Is(errno, unix.EINTR), errors.Is(errno, unix.ETIMEDOUT):
		default:
			return fmt.Errorf("wait on shared memory: %w", errno)
		}
	}
	return nil
}

// wake ends all waits for a word.
func wake(word *atomic.Uint32) {
	_, _, _ = unix.Syscall6(unix.SYS_FUTEX, uintptr(unsafe.Pointer(word)), futexWake, 1<<30, 0, 0, 0)
}

// clock reads CLOCK_MONOTONIC without a system call, as time does.
type clock struct {
	base   time.Time
	offset int64 // CLOCK_MONOTONIC at base
}

// newClock finds the offset: the closest of a few pairs of readings.
func newClock() (*clock, error) {
	c := &clock{base: time.Now()}
	best := time.Hour
	for range 50 {
		var t unix.Timespec
		before := time.Since(c.base)
		if err := unix.ClockGettime(unix.CLOCK_MONOTONIC, &t); err != nil {
			return nil, fmt.Errorf("monotonic clock: %w", err)
		}
		after := time.Since(c.base)
		if after-before < best {
			best, c.offset = after-before, t.Nano()-int64(before+after)/2
		}
	}
	return c, nil
}

func (c *clock) now() int64 { return c.offset + int64(time.Since(c.base)) }

// cpuTime is the user and system time of this process, all threads.
func cpuTime() (int64, error) {
	var u unix.Rusage
	if err := unix.Getrusage(unix.RUSAGE_SELF, &u); err != nil {
		return 0, fmt.Errorf("processor time: %w", err)
	}
	return u.Utime.Nano() + u.Stime.Nano(), nil
}

// word is the w-th of the message from sender s to receiver r. Word 0 is
// replaced by the iteration's mark.
func word(s, r, w int) uint64 {
	x := (uint64(s)<<48 ^ uint64(r)<<32 ^ uint64(w)) * 0x9e3779b97f4a7c15
	return x ^ x>>29
}

// fillRow writes a message's bytes.
func fillRow(row []byte, s, r int) {
	for w := range len(row) / 8 {
		binary.LittleEndian.PutUint64(row[8*w:], word(s, r, w))
	}
}

// checkRow compares a message with what was sent, all words but the mark.
func checkRow(row []byte, s, r int) error {
	for w := 1; w < len(row)/8; w++ {
		if got, want := binary.LittleEndian.Uint64(row[8*w:]), word(s, r, w); got != want {
			return fmt.Errorf("message of sender %d to receiver %d: %#x at offset %d, want %#x", s, r, got, 8*w, want)
		}
	}
	return nil
}

// checkMark compares a message's mark with the iteration's.
func checkMark(row []byte, s, r int, mark uint64) error {
	if got := binary.LittleEndian.Uint64(row); got != mark {
		return fmt.Errorf("message of sender %d to receiver %d is of iteration %#x, want %#x", s, r, got, mark)
	}
	return nil
}

// markOf is the mark of a round's iteration.
func markOf(round uint32, iteration int) uint64 { return uint64(round)<<32 | uint64(iteration) }
