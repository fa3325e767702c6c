package m2n

import (
	"errors"
	"fmt"
	"io"
	"net"
	"slices"
	"time"
)

// streamConduit is a conduit over any net.Conn: one goroutine reads, one writes.
type streamConn struct {
	lane      *lane
	conn      net.Conn
	kick      chan struct{} // there is a batch to write
	quit      chan struct{}
	readEnded chan struct{} // closed when reading is over
}

func newStreamConn(n *lane, conn net.Conn) *streamConn {
	return &streamConn{lane: n, conn: conn, kick: make(chan struct{}, 1), quit: make(chan struct{}), readEnded: make(chan struct{})}
}

// start starts the goroutines, which leave ends.
func (s *streamConn) start() error {
	go s.readAll()
	go s.writeAll()
	return nil
}

func (s *streamConn) readAll() {
	defer close(s.readEnded)
	for more := true; more; {
		n, err := s.readSome()
		more = s.lane.bytesRead(n, err)
	}
	_, _ = io.Copy(io.Discard, s.conn) // ends with the connection or leave's deadline
}

// readSome reads a rest of a body straight to its place, anything else through
// the buffer.
func (s *streamConn) readSome() (int, error) {
	want, after := s.lane.in.Space()
	if len(want) >= len(after) {
		n, err := s.conn.Read(want)
		return n, damage(err)
	}
	n, err := s.conn.Read(after)
	return s.lane.in.Shift(n), damage(err)
}

// damage names what TLS has found wrong with the bytes, at this end or the other.
func damage(err error) error {
	var op *net.OpError
	if errors.As(err, &op) && (op.Op == "local error" || op.Op == "remote error") {
		return fmt.Errorf("%w: %w", ErrBadFrame, err)
	}
	return err
}

func (s *streamConn) writeAll() {
	for {
		select {
		case <-s.kick:
			s.lane.resume()
		case <-s.quit:
			return
		}
	}
}

func (s *streamConn) nonBlocking() bool { return false }

func (s *streamConn) readPending() {} // it reads whatever comes

func (s *streamConn) write(pieces [][]byte) (int, error) {
	buffers := net.Buffers(slices.Clone(pieces)) // it takes the list apart
	n, err := buffers.WriteTo(s.conn)
	return int(n), damage(err) // after what was read has shown it, writes say it too
}

func (s *streamConn) resumeLater() error {
	select {
	case s.kick <- struct{}{}:
	default: // it has not come to it yet
	}
	return nil
}

func (s *streamConn) unsent() int { return 0 }

func (s *streamConn) shutdown() { _ = s.conn.Close() } // reads and writes fail; so may this

func (s *streamConn) closeGracefully(goodbye []byte, deadline time.Time) {
	close(s.quit)
	if goodbye == nil {
		_ = s.conn.Close() // nothing is to be saved
	} else {
		_ = s.conn.SetDeadline(deadline) // it fails where the connection has
		s.sendLast(goodbye)
	}
	<-s.readEnded
	_ = s.conn.Close()
}

func (s *streamConn) sendLast(goodbye []byte) {
	if _, err := s.conn.Write(goodbye); err != nil {
		return // the peer is gone, and will find out by itself
	}
	if half, ok := s.conn.(interface{ CloseWrite() error }); ok {
		_ = half.CloseWrite() // fails where the connection has
	}
}
