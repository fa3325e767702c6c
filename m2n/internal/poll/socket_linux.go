package poll

import (
	"errors"
	"fmt"
	"io"
	"net"
	"sync"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

// Socket is a connected stream socket that never blocks. Its descriptor is its own, not
// one of Go's poller: that would be woken along with the [Poller], for nothing.
type Socket struct {
	fd   int
	mark lowMark // the reader's

	mu     sync.Mutex
	closed bool
}

// NewSocket takes over a TCP or Unix connection: conn is closed, unless an error is
// returned.
func NewSocket(conn net.Conn) (*Socket, error) {
	raw, err := conn.(syscall.Conn).SyscallConn()
	if err != nil {
		return nil, err
	}
	s := &Socket{}
	outer := raw.Control(func(fd uintptr) { s.fd, err = unix.FcntlInt(fd, unix.F_DUPFD_CLOEXEC, 0) })
	if err := errors.Join(outer, err); err != nil {
		return nil, err
	}
	s.mark = newLowMark(s.fd)
	return s, conn.Close()
}

// FD is the descriptor, for a [Poller].
func (s *Socket) FD() int { return s.fd }

// Write writes the pieces in order and returns how many bytes the kernel took, 0 where
// it takes none now.
func (s *Socket) Write(pieces [][]byte) (int, error) {
	n, err := writev(s.fd, pieces)
	switch {
	case errors.Is(err, unix.EAGAIN) || errors.Is(err, unix.EINTR):
		return 0, nil
	case err != nil:
		return 0, fmt.Errorf("write: %w", err)
	}
	return n, nil
}

// Read fills a and then b with the bytes that are there: n may be 0. There may be more
// where both were filled. The end of the stream is io.EOF.
func (s *Socket) Read(a, b []byte) (n int, more bool, err error) {
	n, err = readv(s.fd, [][]byte{a, b})
	switch {
	case errors.Is(err, unix.EAGAIN) || errors.Is(err, unix.EINTR):
		return 0, false, nil
	case err != nil:
		return 0, false, fmt.Errorf("read: %w", err)
	case n == 0:
		return 0, false, io.EOF
	}
	return n, n == len(a)+len(b), nil
}

// Await has a poller report the socket readable only once a good part of the bytes that
// the reader lacks is there. The reader calls it whenever it stops reading. After an
// error the socket might never be reported again.
func (s *Socket) Await(missing int) error { return s.mark.set(missing) }

// HoldsBack reports whether bytes may be there of which a poller says nothing, for
// they are fewer than Await has asked for.
func (s *Socket) HoldsBack() bool { return s.mark.at > 1 }

// Unsent is how many bytes the peer has not acknowledged, 0 where the kernel does not
// tell.
func (s *Socket) Unsent() int {
	n, err := unix.IoctlGetInt(s.fd, unix.SIOCOUTQ)
	if err != nil {
		return 0
	}
	return n
}

// Retransmits is how many TCP segments the kernel has sent again, false for sockets
// that are not TCP's. The socket must not be closed.
func (s *Socket) Retransmits() (uint64, bool) { return retransmitsOf(s.fd) }

// Shutdown makes reads and writes fail from now on.
func (s *Socket) Shutdown() {
	s.mu.Lock()
	defer s.mu.Unlock()
	if !s.closed { // else the descriptor may be another socket's by now
		_ = unix.Shutdown(s.fd, unix.SHUT_RDWR) // an error means that the connection has failed
	}
}

// Close closes the socket. What the peer has not read yet may be lost.
func (s *Socket) Close() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.closed = true
	_ = unix.Close(s.fd)
}

// Finish sends the last bytes of the stream, waits until the peer closes too, and
// closes; all of that until the deadline. With nothing to send it closes at once.
// Nobody may read or write meanwhile.
//
// It reads and discards while it waits, since the kernel answers closing with unread
// bytes by a reset, which takes from the peer what the peer has not read yet.
func (s *Socket) Finish(last []byte, deadline time.Time) {
	if s.sendLast(last, deadline) {
		s.discard(deadline)
	}
	s.Close()
}

// sendLast reports whether there was something to send and the peer can still read it.
func (s *Socket) sendLast(last []byte, deadline time.Time) bool {
	for pause := leastPause; len(last) > 0; {
		n, err := s.Write([][]byte{last})
		if err != nil {
			return false
		}
		if last = last[n:]; len(last) == 0 {
			return unix.Shutdown(s.fd, unix.SHUT_WR) == nil
		}
		if !pauseUntil(&pause, deadline) {
			return false
		}
	}
	return false
}

func (s *Socket) discard(deadline time.Time) {
	var b [4 << 10]byte
	for pause := leastPause; ; {
		n, err := unix.Read(s.fd, b[:])
		switch {
		case n > 0:
			continue
		case n == 0 && err == nil:
			return
		case !errors.Is(err, unix.EAGAIN) && !errors.Is(err, unix.EINTR):
			return
		}
		if !pauseUntil(&pause, deadline) {
			return
		}
	}
}

const leastPause = 100 * time.Microsecond

// pauseUntil waits, longer each time; false at the deadline.
func pauseUntil(pause *time.Duration, deadline time.Time) bool {
	if !time.Now().Before(deadline) {
		return false
	}
	<-time.After(*pause)
	*pause = min(2**pause, 5*time.Millisecond)
	return true
}
