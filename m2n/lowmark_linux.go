package m2n

import (
	"fmt"

	"golang.org/x/sys/unix"
)

// lowMark is the low-water mark of a socket that is read (SO_RCVLOWAT): the gate
// opens once so many bytes are there, or the stream has ended, so that the rest of
// a body comes in large pieces rather than packet by packet.
//
// It has one owner, the socket's reader, and one invariant: whenever the reader
// goes, the mark is no higher than what the assembler lacks now, nor than what the
// receive buffer holds. A mark above either wakes nobody: what is there lies there,
// and both ends wait. So every way out of reading leads through leave, a mark that
// cannot be lowered is an error that ends the connection, and one that cannot be
// raised costs wake-ups alone.
type lowMark struct {
	at   int // bytes; as the kernel has it, or above
	set  func(bytes int) error
	room func() (int, error) // bytes of the receive buffer
}

// mostAwaited bounds what is waited for at a time: both ends are to work at once.
const mostAwaited = 128 << 10

// leastAwaited is the shortest rest that is worth a change of the mark.
const leastAwaited = mostAwaited / 4

// newLowMark takes over the mark of a socket, which may have one from whoever made
// it, or from its listener.
func newLowMark(fd int) lowMark {
	at, err := unix.GetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_RCVLOWAT)
	if err != nil {
		at = 1 // it has none
	}
	return lowMark{
		at:   at,
		set:  func(bytes int) error { return unix.SetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_RCVLOWAT, bytes) },
		room: func() (int, error) { return unix.GetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_RCVBUF) },
	}
}

// leave sets the mark for an assembler that lacks so many bytes.
func (m *lowMark) leave(lacks int) error {
	to := min(lacks, mostAwaited)
	if to < leastAwaited {
		to = 1
	}
	switch {
	case to < m.at:
		return m.lower(to)
	case to > m.at:
		return m.raise(to)
	}
	return nil
}

func (m *lowMark) lower(to int) error {
	if err := m.set(to); err != nil {
		return fmt.Errorf("lowering SO_RCVLOWAT from %d to %d bytes: %w", m.at, to, err)
	}
	m.at = to
	return nil
}

// raise sets the mark, where the receive buffer holds so much: the kernel makes it
// larger with the mark, unless a program has set its size.
func (m *lowMark) raise(to int) error {
	if m.set(to) != nil {
		return nil // more wake-ups
	}
	m.at = to
	if room, err := m.room(); err != nil || room < to {
		return m.lower(1)
	}
	return nil
}
