package m2n

import (
	"errors"
	"fmt"
	"io"
	"net"
	"slices"
	"time"

	"github.com/tandem-moe/tandem/m2n/internal/poll"
)

// streamConn is a connection over any net.Conn: one goroutine reads, one writes.
type streamConn struct {
	lane      *lane
	conn      net.Conn
	kick      chan struct{} // the lane has a batch to write
	quit      chan struct{} // closed to end the writing goroutine
	readEnded chan struct{} // closed when the reading goroutine has ended
}

func newStreamConn(n *lane, conn net.Conn) *streamConn {
	return &streamConn{lane: n, conn: conn, kick: make(chan struct{}, 1), quit: make(chan struct{}), readEnded: make(chan struct{})}
}

// start starts the goroutines, which closeGracefully ends.
func (s *streamConn) start() error {
	go s.readAll()
	go s.writeAll()
	return nil
}

// readAll reads to the end of the stream, also when the lane wants no more: a peer that
// still writes must not be stopped by a full connection before it reads the goodbye.
func (s *streamConn) readAll() {
	defer close(s.readEnded)
	for more := true; more; {
		n, err := s.readSome()
		more = s.lane.bytesRead(n, err)
	}
	_, _ = io.Copy(io.Discard, s.conn) // ends with the connection or closeGracefully's deadline
}

// readSome reads the long rest of a body straight to its place, anything else through
// the assembler's buffer.
func (s *streamConn) readSome() (int, error) {
	want, after := s.lane.in.Space()
	if len(want) >= len(after) {
		n, err := s.conn.Read(want)
		return n, asBadFrame(err)
	}
	n, err := s.conn.Read(after)
	return s.lane.in.Shift(n), asBadFrame(err)
}

// asBadFrame names the errors of TLS that say that bytes were changed on the way, as
// found by this end or the other.
func asBadFrame(err error) error {
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

func (s *streamConn) readPending() {} // the reading goroutine reads whatever comes

func (s *streamConn) write(pieces [][]byte) (int, error) {
	buffers := net.Buffers(slices.Clone(pieces)) // WriteTo changes the list
	n, err := buffers.WriteTo(s.conn)
	return int(n), asBadFrame(err) // once a read has found changed bytes, writes fail with the same error
}

func (s *streamConn) resumeLater() error {
	select {
	case s.kick <- struct{}{}:
	default: // a kick is waiting already
	}
	return nil
}

func (s *streamConn) unsent() int { return 0 }

func (s *streamConn) retransmits() (uint64, bool) { return poll.Retransmits(s.conn) }

func (s *streamConn) shutdown() { _ = s.conn.Close() } // an error means that it is closed already

func (s *streamConn) closeGracefully(goodbye []byte, deadline time.Time) {
	close(s.quit)
	if goodbye == nil {
		_ = s.conn.Close() // nothing is to be saved
	} else {
		_ = s.conn.SetDeadline(deadline) // an error means that the connection has failed
		s.sendLast(goodbye)
	}
	<-s.readEnded
	_ = s.conn.Close()
}

func (s *streamConn) sendLast(goodbye []byte) {
	if _, err := s.conn.Write(goodbye); err != nil {
		return // the peer is gone, or will see the end of the connection
	}
	if half, ok := s.conn.(interface{ CloseWrite() error }); ok {
		_ = half.CloseWrite() // an error means that the connection has failed
	}
}
