package shm

import (
	"errors"
	"fmt"
	"sync"

	"golang.org/x/sys/unix"

	"github.com/tandem-moe/tandem/m2n/internal/wire"
)

// Segment is memory that processes share, and the descriptor by which it is passed on.
type Segment struct {
	FD   int
	Mem  []byte
	once sync.Once
}

// seals keep whoever has the descriptor from resizing the memory: reading beyond its
// end would kill this process by SIGBUS.
const seals = unix.F_SEAL_SHRINK | unix.F_SEAL_GROW | unix.F_SEAL_SEAL

// NewSegment makes a segment of so many bytes, all zero.
func NewSegment(bytes int) (*Segment, error) {
	fd, err := unix.MemfdCreate("m2n", unix.MFD_CLOEXEC|unix.MFD_ALLOW_SEALING)
	if err != nil {
		return nil, fmt.Errorf("making shared memory: %w", err)
	}
	err = unix.Ftruncate(fd, int64(bytes))
	if err == nil {
		_, err = unix.FcntlInt(uintptr(fd), unix.F_ADD_SEALS, seals)
	}
	if err != nil {
		return nil, errors.Join(fmt.Errorf("making shared memory of %d bytes: %w", bytes, err), unix.Close(fd))
	}
	return mapSegment(fd, bytes)
}

// MapSegment maps a peer's segment, which must be sealed and of so many bytes. It owns
// the descriptor from here on.
func MapSegment(fd, bytes int) (*Segment, error) {
	var s unix.Stat_t
	has, err := unix.FcntlInt(uintptr(fd), unix.F_GET_SEALS, 0)
	if err == nil {
		err = unix.Fstat(fd, &s)
	}
	switch {
	case err != nil:
		err = fmt.Errorf("%w: the peer's memory: %w", wire.ErrBadFrame, err)
	case has&unix.F_SEAL_SHRINK == 0:
		err = fmt.Errorf("%w: the peer's memory is not sealed", wire.ErrBadFrame)
	case s.Size != int64(bytes):
		err = fmt.Errorf("%w: the peer's memory has %d bytes, announced %d", wire.ErrBadFrame, s.Size, bytes)
	}
	if err != nil {
		return nil, errors.Join(err, unix.Close(fd))
	}
	return mapSegment(fd, bytes)
}

func mapSegment(fd, bytes int) (*Segment, error) {
	mem, err := unix.Mmap(fd, 0, bytes, unix.PROT_READ|unix.PROT_WRITE, unix.MAP_SHARED)
	if err != nil {
		return nil, errors.Join(fmt.Errorf("mapping %d bytes of shared memory: %w", bytes, err), unix.Close(fd))
	}
	return &Segment{FD: fd, Mem: mem}, nil
}

// Close unmaps the memory and closes the descriptor, once.
func (s *Segment) Close() {
	s.once.Do(func() {
		_ = unix.Munmap(s.Mem) // cannot fail: it is mapped
		_ = unix.Close(s.FD)
	})
}
