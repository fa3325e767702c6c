package poll

import (
	"fmt"

	"golang.org/x/sys/unix"
)

// lowMark is the low-water mark of a socket (SO_RCVLOWAT): the poller reports the
// socket readable once so many bytes are there, or the stream has ended. So the rest of
// a long body is read in large pieces rather than packet by packet.
//
// The mark has one owner, the socket's reader, and one invariant: whenever the reader
// stops reading, the mark is no higher than the number of bytes that the reader lacks
// now, nor than what the receive buffer holds. A mark above either of them wakes
// nobody: the bytes lie there, and both ends wait. So every way out of reading leads
// through set, a mark that cannot be lowered is an error that ends the connection, and
// a mark that cannot be raised only costs wake-ups.
type lowMark struct {
	at     int // bytes: what the kernel has, or more
	tell   func(bytes int) error
	buffer func() (int, error) // bytes that the receive buffer holds
}

// MostAwaited bounds the mark, so that the reader works while the sender sends the rest.
const MostAwaited = 128 << 10

// LeastAwaited is the shortest rest that is worth a change of the mark.
const LeastAwaited = MostAwaited / 4

// newLowMark takes over the mark of a socket. A socket may come with one, for example
// that of the listener that accepted it.
func newLowMark(fd int) lowMark {
	at, err := unix.GetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_RCVLOWAT)
	if err != nil {
		at = 1 // the kernel's default
	}
	return lowMark{
		at:     at,
		tell:   func(bytes int) error { return unix.SetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_RCVLOWAT, bytes) },
		buffer: func() (int, error) { return unix.GetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_RCVBUF) },
	}
}

// set sets the mark for a reader that lacks so many bytes.
func (m *lowMark) set(missing int) error {
	to := min(missing, MostAwaited)
	if to < LeastAwaited {
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
	if err := m.tell(to); err != nil {
		return fmt.Errorf("lowering SO_RCVLOWAT from %d to %d bytes: %w", m.at, to, err)
	}
	m.at = to
	return nil
}

// raise sets the mark, where the receive buffer holds so much. The kernel enlarges the
// buffer with the mark, unless a program has fixed its size.
func (m *lowMark) raise(to int) error {
	if m.tell(to) != nil {
		return nil // the reader is woken more often
	}
	m.at = to
	if held, err := m.buffer(); err != nil || held < to {
		return m.lower(1)
	}
	return nil
}
