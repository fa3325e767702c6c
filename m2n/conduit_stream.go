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
type streamConduit struct {
	lane *lane
	conn net.Conn
	kick chan struct{} // there is a batch to write
	quit chan struct{}
	read chan struct{} // closed when reading is over
}

func newStreamConduit(n *lane, conn net.Conn) *streamConduit {
	return &streamConduit{lane: n, conn: conn, kick: make(chan struct{}, 1), quit: make(chan struct{}), read: make(chan struct{})}
}

// start starts the goroutines, which leave ends.
func (s *streamConduit) start() error {
	go s.readAll()
	go s.writeAll()
	return nil
}

func (s *streamConduit) readAll() {
	defer close(s.read)
	for more := true; more; {
		n, err := s.readSome()
		more = s.lane.received(n, err)
	}
	_, _ = io.Copy(io.Discard, s.conn) // ends with the connection or leave's deadline
}

// readSome reads a rest of a body straight to its place, anything else through
// the buffer.
func (s *streamConduit) readSome() (int, error) {
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

func (s *streamConduit) writeAll() {
	for {
		select {
		case <-s.kick:
			s.lane.resume()
		case <-s.quit:
			return
		}
	}
}

func (s *streamConduit) direct() bool { return false }

func (s *streamConduit) catchUp() {} // it reads whatever comes

func (s *streamConduit) write(pieces [][]byte) (int, error) {
	buffers := net.Buffers(slices.Clone(pieces)) // it takes the list apart
	n, err := buffers.WriteTo(s.conn)
	return int(n), damage(err) // after what was read has shown it, writes say it too
}

func (s *streamConduit) await() error {
	select {
	case s.kick <- struct{}{}:
	default: // it has not come to it yet
	}
	return nil
}

func (s *streamConduit) unsent() int { return 0 }

func (s *streamConduit) shut() { _ = s.conn.Close() } // reads and writes fail; so may this

func (s *streamConduit) leave(goodbye []byte, deadline time.Time) {
	close(s.quit)
	if goodbye == nil {
		_ = s.conn.Close() // nothing is to be saved
	} else {
		_ = s.conn.SetDeadline(deadline) // it fails where the connection has
		s.say(goodbye)
	}
	<-s.read
	_ = s.conn.Close()
}

func (s *streamConduit) say(goodbye []byte) {
	if _, err := s.conn.Write(goodbye); err != nil {
		return // the peer is gone, and will find out by itself
	}
	if half, ok := s.conn.(interface{ CloseWrite() error }); ok {
		_ = half.CloseWrite() // fails where the connection has
	}
}
