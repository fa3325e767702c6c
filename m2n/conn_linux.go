package m2n

import (
	"net"
	"sync"
	"sync/atomic"
	"time"

	"github.com/tandem-moe/tandem/m2n/internal/poll"
)

// newConnection takes over a connection. The progress engine reads plain sockets; what
// is secured by TLS, or is no socket, is read by a goroutine.
func (n *lane) newConnection(conn net.Conn) connection {
	switch conn.(type) {
	case *net.TCPConn, *net.UnixConn:
		if s, err := newSocketConn(n, conn); err == nil {
			return s
		}
	}
	return newStreamConn(n, conn)
}

// socketConn is a connection that never blocks. Whoever drives the progress engine
// reads it.
type socketConn struct {
	lane   *lane
	engine *engine
	socket *poll.Socket

	resumePending atomic.Bool // the driver is to call lane.resume

	reading   sync.Mutex // held while lane.bytesRead is called
	readEnded bool       // lane.bytesRead is not called any more; guarded by reading
}

func newSocketConn(n *lane, conn net.Conn) (*socketConn, error) {
	eng, err := n.link.pair.ep.startEngine()
	if err != nil {
		return nil, err
	}
	socket, err := poll.NewSocket(conn)
	if err != nil {
		return nil, err
	}
	return &socketConn{lane: n, engine: eng, socket: socket}, nil
}

func (s *socketConn) start() error {
	return firstError(
		func() error { return s.socket.Await(s.lane.in.Missing()) },
		func() error { return s.engine.poller.Add(s.socket.FD(), s) },
	)
}

func (s *socketConn) nonBlocking() bool { return true }

func (s *socketConn) write(pieces [][]byte) (int, error) { return s.socket.Write(pieces) }

// resumeLater leaves the rest of a batch to the driver. While the consumer does not
// poll, that is the watchdog, which is told to look often.
func (s *socketConn) resumeLater() error {
	s.resumePending.Store(true)
	if err := s.engine.poller.WantWrite(s.socket.FD()); err != nil {
		if s.resumePending.Swap(false) {
			return err
		}
		return nil // the reader has met the end of the stream, and has resumed the lane
	}
	s.engine.watchOften()
	return nil
}

// Writable is called by the driver, and by the reader at the end of the stream.
func (s *socketConn) Writable() {
	if s.resumePending.Swap(false) {
		s.lane.resume()
	}
}

func (s *socketConn) unsent() int { return s.socket.Unsent() }

func (s *socketConn) retransmits() (uint64, bool) {
	s.reading.Lock() // closeGracefully takes it before it closes the socket
	defer s.reading.Unlock()
	if s.readEnded {
		return 0, false
	}
	return s.socket.Retransmits()
}

func (s *socketConn) shutdown() { s.socket.Shutdown() }

// readsPerTurn bounds how often one source is read before the others are.
const readsPerTurn = 8

// Readable is called by the driver.
func (s *socketConn) Readable() {
	s.reading.Lock()
	defer s.reading.Unlock()
	s.readTurn()
}

func (s *socketConn) readPending() {
	if s.reading.TryLock() { // else somebody reads already
		defer s.reading.Unlock()
		if s.socket.HoldsBack() {
			s.readTurn()
		}
	}
}

// readTurn reads what is there, up to readsPerTurn times, and has the poller wait for
// what is missing then. The caller holds reading.
func (s *socketConn) readTurn() {
	for turn := 0; turn < readsPerTurn && s.readOnce(); turn++ {
	}
	if s.readEnded {
		return
	}
	if err := s.socket.Await(s.lane.in.Missing()); err != nil {
		s.handOver(0, err)
	}
}

// readOnce reports whether there may be more to read now.
func (s *socketConn) readOnce() bool {
	if s.readEnded {
		return false
	}
	n, more, err := s.socket.Read(s.lane.in.Space())
	if n == 0 && err == nil {
		return false
	}
	return s.handOver(n, err) && more
}

// handOver tells the lane of n bytes that were read, or of the error of reading. It
// returns false where the lane wants no more.
func (s *socketConn) handOver(n int, err error) bool {
	if s.lane.bytesRead(n, err) {
		return true
	}
	s.readEnded = true
	s.engine.poller.Remove(s.socket.FD())
	s.Writable() // the driver will not call it: a writer that waits meets its error now
	return false
}

func (s *socketConn) closeGracefully(goodbye []byte, deadline time.Time) {
	s.engine.poller.Remove(s.socket.FD())
	s.reading.Lock()
	s.readEnded = true
	s.reading.Unlock()
	s.socket.Finish(goodbye, deadline)
}
