package m2n

import (
	"errors"
	"fmt"
	"io"
	"net"
	"sync"
	"sync/atomic"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

// newConduit takes over a connection: a socket is read in the gate; what is
// secured, or is none, by a goroutine.
func (n *lane) newConduit(conn net.Conn) conduit {
	switch conn.(type) {
	case *net.TCPConn, *net.UnixConn:
		if s, err := newSocket(n, conn); err == nil {
			return s
		}
	}
	return newStreamConduit(n, conn)
}

// socket is a conduit that never blocks. Its descriptor is its own, not Go's
// poller's: that would be woken with the gate, for nothing.
type socket struct {
	lane *lane
	eng  *engine
	fd   int

	awaiting atomic.Bool // the driver is to go on writing

	closing sync.Mutex
	closed  bool

	reading sync.Mutex
	over    bool // reading has ended, or leave has begun and reads
	mark    lowMark
}

// newSocket takes the descriptor out of conn, and closes that.
func newSocket(n *lane, conn net.Conn) (*socket, error) {
	eng, err := n.link.pair.ep.engine()
	if err != nil {
		return nil, err
	}
	raw, err := conn.(syscall.Conn).SyscallConn()
	if err != nil {
		return nil, err
	}
	s := &socket{lane: n, eng: eng}
	outer := raw.Control(func(fd uintptr) { s.fd, err = unix.FcntlInt(fd, unix.F_DUPFD_CLOEXEC, 0) })
	if err := errors.Join(outer, err); err != nil {
		return nil, err
	}
	s.mark = newLowMark(s.fd)
	return s, conn.Close()
}

func (s *socket) start() error {
	return firstError(func() error { return s.mark.leave(s.lane.in.Missing()) }, func() error { return s.eng.gate.add(s.fd, s) })
}

func (s *socket) direct() bool { return true }

// write returns how many bytes the kernel took; 0 where it takes none now.
func (s *socket) write(pieces [][]byte) (int, error) {
	n, err := writev(s.fd, pieces)
	if errors.Is(err, unix.EAGAIN) || errors.Is(err, unix.EINTR) {
		return 0, nil
	}
	if err != nil {
		return 0, fmt.Errorf("write: %w", err)
	}
	return n, nil
}

// await leaves the rest to the driver. While the consumer is elsewhere that is the
// watchdog, which is told.
func (s *socket) await() error {
	s.awaiting.Store(true)
	if err := s.eng.gate.await(s.fd); err != nil {
		if s.awaiting.Swap(false) {
			return err
		}
		return nil // who has read the end goes on
	}
	s.eng.lookSoon()
	return nil
}

func (s *socket) writable() {
	if s.awaiting.Swap(false) {
		s.lane.resume()
	}
}

func (s *socket) unsent() int {
	n, err := unix.IoctlGetInt(s.fd, unix.SIOCOUTQ)
	if err != nil {
		return 0
	}
	return n
}

func (s *socket) shut() {
	s.closing.Lock()
	defer s.closing.Unlock()
	if !s.closed { // else the descriptor may be another's by now
		_ = unix.Shutdown(s.fd, unix.SHUT_RDWR) // it fails where the connection has
	}
}

func (s *socket) close() {
	s.closing.Lock()
	defer s.closing.Unlock()
	s.closed = true
	_ = unix.Close(s.fd) // nothing is to be saved
}

// readsPerTurn bounds what one source takes before the others have their turn.
const readsPerTurn = 8

// ready reads what is there.
func (s *socket) ready() {
	s.reading.Lock()
	defer s.reading.Unlock()
	s.readTurn()
}

// catchUp reads what is there where the gate waits for more. Where somebody reads
// there is nothing to do.
func (s *socket) catchUp() {
	if s.reading.TryLock() {
		defer s.reading.Unlock()
		if s.mark.at > 1 {
			s.readTurn()
		}
	}
}

// readTurn reads as long as its turn is, or something comes, and leaves the mark as
// it has to be for the next one. The caller holds reading.
func (s *socket) readTurn() {
	for turn := 0; turn < readsPerTurn && s.readOnce(); turn++ {
	}
	if s.over {
		return
	}
	if err := s.mark.leave(s.lane.in.Missing()); err != nil {
		s.take(0, err)
	}
}

// readOnce reads, and tells whether there may be more now.
func (s *socket) readOnce() bool {
	if s.over {
		return false
	}
	n, more, err := s.read()
	if n == 0 && err == nil {
		return false
	}
	return s.take(n, err) && more
}

// take hands to the lane what was read; false where reading is over.
func (s *socket) take(n int, err error) bool {
	if s.lane.received(n, err) {
		return true
	}
	s.over = true
	s.eng.gate.remove(s.fd)
	s.writable() // it will not be called
	return false
}

// read puts bytes into the assembler's space. There is more where it was filled.
func (s *socket) read() (n int, more bool, err error) {
	want, after := s.lane.in.Space()
	n, err = readv(s.fd, [][]byte{want, after})
	switch {
	case errors.Is(err, unix.EAGAIN) || errors.Is(err, unix.EINTR):
		return 0, false, nil
	case err != nil:
		return 0, false, fmt.Errorf("read: %w", err)
	case n == 0:
		return 0, false, io.EOF
	}
	return n, n == len(want)+len(after), nil
}

// leave reads until the peer closes, too: closing with unread bytes would take
// from it what it has not read yet.
func (s *socket) leave(goodbye []byte, deadline time.Time) {
	s.eng.gate.remove(s.fd)
	s.reading.Lock()
	s.over = true
	s.reading.Unlock()
	if s.say(goodbye, deadline) {
		s.discard(deadline)
	}
	s.close()
}

// say sends the last frame; false where there is none, or the peer is gone.
func (s *socket) say(goodbye []byte, deadline time.Time) bool {
	for pause := leastPause; len(goodbye) > 0; {
		n, err := s.write([][]byte{goodbye})
		if err != nil {
			return false
		}
		if goodbye = goodbye[n:]; len(goodbye) == 0 {
			return unix.Shutdown(s.fd, unix.SHUT_WR) == nil
		}
		if !pauseUntil(&pause, deadline) {
			return false
		}
	}
	return false
}

func (s *socket) discard(deadline time.Time) {
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
