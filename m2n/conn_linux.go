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
func (n *lane) newConnection(conn net.Conn) connection {
	switch conn.(type) {
	case *net.TCPConn, *net.UnixConn:
		if s, err := newSocketConn(n, conn); err == nil {
			return s
		}
	}
	return newStreamConn(n, conn)
}

// socket is a conduit that never blocks. Its descriptor is its own, not Go's
// poller's: that would be woken with the gate, for nothing.
type socketConn struct {
	lane   *lane
	engine *engine
	fd     int

	resumePending atomic.Bool // the driver is to go on writing

	closing sync.Mutex
	closed  bool

	reading   sync.Mutex
	readEnded bool // reading has ended, or leave has begun and reads
	mark      lowMark
}

// newSocket takes the descriptor out of conn, and closes that.
func newSocketConn(n *lane, conn net.Conn) (*socketConn, error) {
	eng, err := n.link.pair.ep.startEngine()
	if err != nil {
		return nil, err
	}
	raw, err := conn.(syscall.Conn).SyscallConn()
	if err != nil {
		return nil, err
	}
	s := &socketConn{lane: n, engine: eng}
	outer := raw.Control(func(fd uintptr) { s.fd, err = unix.FcntlInt(fd, unix.F_DUPFD_CLOEXEC, 0) })
	if err := errors.Join(outer, err); err != nil {
		return nil, err
	}
	s.mark = newLowMark(s.fd)
	return s, conn.Close()
}

func (s *socketConn) start() error {
	return firstError(func() error { return s.mark.leave(s.lane.in.Missing()) }, func() error { return s.engine.poller.add(s.fd, s) })
}

func (s *socketConn) nonBlocking() bool { return true }

// write returns how many bytes the kernel took; 0 where it takes none now.
func (s *socketConn) write(pieces [][]byte) (int, error) {
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
func (s *socketConn) resumeLater() error {
	s.resumePending.Store(true)
	if err := s.engine.poller.await(s.fd); err != nil {
		if s.resumePending.Swap(false) {
			return err
		}
		return nil // who has read the end goes on
	}
	s.engine.watchOften()
	return nil
}

func (s *socketConn) writable() {
	if s.resumePending.Swap(false) {
		s.lane.resume()
	}
}

func (s *socketConn) unsent() int {
	n, err := unix.IoctlGetInt(s.fd, unix.SIOCOUTQ)
	if err != nil {
		return 0
	}
	return n
}

func (s *socketConn) shutdown() {
	s.closing.Lock()
	defer s.closing.Unlock()
	if !s.closed { // else the descriptor may be another's by now
		_ = unix.Shutdown(s.fd, unix.SHUT_RDWR) // it fails where the connection has
	}
}

func (s *socketConn) close() {
	s.closing.Lock()
	defer s.closing.Unlock()
	s.closed = true
	_ = unix.Close(s.fd) // nothing is to be saved
}

// readsPerTurn bounds what one source takes before the others have their turn.
const readsPerTurn = 8

// ready reads what is there.
func (s *socketConn) ready() {
	s.reading.Lock()
	defer s.reading.Unlock()
	s.readTurn()
}

// catchUp reads what is there where the gate waits for more. Where somebody reads
// there is nothing to do.
func (s *socketConn) readPending() {
	if s.reading.TryLock() {
		defer s.reading.Unlock()
		if s.mark.at > 1 {
			s.readTurn()
		}
	}
}

// readTurn reads as long as its turn is, or something comes, and leaves the mark as
// it has to be for the next one. The caller holds reading.
func (s *socketConn) readTurn() {
	for turn := 0; turn < readsPerTurn && s.readOnce(); turn++ {
	}
	if s.readEnded {
		return
	}
	if err := s.mark.leave(s.lane.in.Missing()); err != nil {
		s.handOver(0, err)
	}
}

// readOnce reads, and tells whether there may be more now.
func (s *socketConn) readOnce() bool {
	if s.readEnded {
		return false
	}
	n, more, err := s.read()
	if n == 0 && err == nil {
		return false
	}
	return s.handOver(n, err) && more
}

// take hands to the lane what was read; false where reading is over.
func (s *socketConn) handOver(n int, err error) bool {
	if s.lane.bytesRead(n, err) {
		return true
	}
	s.readEnded = true
	s.engine.poller.remove(s.fd)
	s.writable() // it will not be called
	return false
}

// read puts bytes into the assembler's space. There is more where it was filled.
func (s *socketConn) read() (n int, more bool, err error) {
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
func (s *socketConn) closeGracefully(goodbye []byte, deadline time.Time) {
	s.engine.poller.remove(s.fd)
	s.reading.Lock()
	s.readEnded = true
	s.reading.Unlock()
	if s.sendLast(goodbye, deadline) {
		s.discard(deadline)
	}
	s.close()
}

// say sends the last frame; false where there is none, or the peer is gone.
func (s *socketConn) sendLast(goodbye []byte, deadline time.Time) bool {
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

func (s *socketConn) discard(deadline time.Time) {
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
