package shape

import (
	"bytes"
	"errors"
	"io"
	"net"
	"os"
	"sync"
	"syscall"
	"time"
)

// addr is HOST:PORT.
type addr string

func (a addr) Network() string { return "shape" }
func (a addr) String() string  { return string(a) }

// stream is one direction of a connection. It holds the bytes, which the model only
// counts. Network.mu guards it.
type stream struct {
	flow           *flow
	writer, reader *conn
	chunks         queue[[]byte] // written and not read yet
	held           int           // bytes written that have not left the host
	readable       int           // bytes that have arrived
	ended          bool          // nothing follows the readable bytes
	shut           bool          // the writer has finished
	room, news     notifier      // notified when the writer, and the reader, can go on
}

// notifier wakes one waiting goroutine. Where none waits, the next one does not wait.
type notifier chan struct{}

func newNotifier() notifier { return make(notifier, 1) }

func (n notifier) notify() {
	select {
	case n <- struct{}{}:
	default:
	}
}

// conn is one end of a connection.
type conn struct {
	net           *Network
	local, remote addr
	in, out       *stream
	// One goroutine reads and one writes at a time; others wait.
	reading, writing sync.Mutex
	readBy, writeBy  deadline

	// Guarded by net.mu:
	closed bool
	err    error // of the network, where the connection has failed
}

// connect makes the two ends of a connection. The caller holds mu.
func (n *Network) connect(there *path, client, server addr) (dials, accepts *conn) {
	back := n.model.path(there.to, there.from)
	a := &conn{net: n, local: client, remote: server, readBy: newDeadline(), writeBy: newDeadline()}
	b := &conn{net: n, local: server, remote: client, readBy: newDeadline(), writeBy: newDeadline()}
	a.out = n.stream(there, a, b)
	a.in = n.stream(back, b, a)
	b.in, b.out = a.out, a.in
	n.conns[a], n.conns[b] = struct{}{}, struct{}{}
	return a, b
}

func (n *Network) stream(p *path, writer, reader *conn) *stream {
	s := &stream{writer: writer, reader: reader, room: newNotifier(), news: newNotifier()}
	s.flow = n.model.flow(p, s)
	return s
}

// act does to streams what an action of the model says. The caller holds mu.
func (n *Network) act(a action) {
	if a.kind == signalled {
		a.signal.(func())()
		return
	}
	s := a.flow.user.(*stream)
	switch a.kind {
	case left:
		s.held -= a.bytes
		s.room.notify()
	case arrived:
		s.readable += a.bytes
		s.news.notify()
		if s.reader.closed {
			n.abort(s.reader)
		}
	case finished:
		s.ended = true
		s.news.notify()
	}
}

// fail ends a connection at one end. Bytes that have arrived there can still be read. The
// caller holds mu.
func (n *Network) fail(c *conn, err error) {
	if c.err != nil {
		return
	}
	c.err = err
	n.model.abandon(c.out.flow)
	n.model.abandon(c.in.flow)
	c.wake()
}

// abort ends a connection from one end, and sends a reset to the other. The caller holds
// mu.
func (n *Network) abort(c *conn) {
	if c.err != nil {
		return
	}
	n.fail(c, syscall.ECONNRESET)
	peer := c.out.reader
	n.model.signal(c.out.flow.path, func() { n.fail(peer, syscall.ECONNRESET) }, false)
}

// wake has a waiting reader and a waiting writer check the streams again.
func (c *conn) wake() {
	c.in.news.notify()
	c.out.room.notify()
}

func (c *conn) LocalAddr() net.Addr  { return c.local }
func (c *conn) RemoteAddr() net.Addr { return c.remote }

// opError dresses an error as package net does.
func (c *conn) opError(op string, err error) error {
	if err == nil || errors.Is(err, io.EOF) {
		return err
	}
	if errno := syscall.Errno(0); errors.As(err, &errno) {
		err = os.NewSyscallError(op, errno)
	}
	return &net.OpError{Op: op, Net: "shape", Source: c.local, Addr: c.remote, Err: err}
}

// Read returns bytes that have arrived. Where there are none, it waits for some.
func (c *conn) Read(p []byte) (int, error) {
	c.reading.Lock()
	defer c.reading.Unlock()
	n, err := c.read(p)
	return n, c.opError("read", err)
}

func (c *conn) read(p []byte) (int, error) {
	if len(p) == 0 {
		return 0, nil
	}
	for {
		if c.readBy.over() {
			return 0, os.ErrDeadlineExceeded
		}
		b, err := c.popArrived(len(p))
		if err != nil || len(b) > 0 {
			return copy(p, b), err
		}
		if err := c.readBy.await(c.in.news); err != nil {
			return 0, err
		}
	}
}

// popArrived returns at most n of the bytes that have arrived, none where there are none.
func (c *conn) popArrived(n int) (b []byte, err error) {
	c.net.do(func() {
		switch {
		case c.closed:
			err = net.ErrClosed
		case c.in.readable > 0:
			b = c.in.pop(n)
			c.net.model.read(c.in.flow, len(b))
		case c.err != nil:
			err = c.err
		case c.in.ended:
			err = io.EOF
		}
	})
	return b, err
}

// pop takes at most n bytes of the first chunk, as far as they have arrived.
func (s *stream) pop(n int) []byte {
	chunk := s.chunks.front()
	n = min(n, len(chunk), s.readable)
	s.readable -= n
	if n == len(chunk) {
		s.chunks.pop()
	} else {
		s.chunks.items[s.chunks.head] = chunk[n:]
	}
	return chunk[:n]
}

// Write returns when all of p is in the send buffer.
func (c *conn) Write(p []byte) (int, error) {
	c.writing.Lock()
	defer c.writing.Unlock()
	n, err := c.write(p)
	return n, c.opError("write", err)
}

// chunkBytes bounds what is copied at a time.
const chunkBytes = 64 << 10

func (c *conn) write(p []byte) (written int, err error) {
	if c.writeBy.over() {
		return 0, os.ErrDeadlineExceeded
	}
	for {
		room, err := c.room()
		switch {
		case err != nil || written == len(p):
			return written, err
		case room == 0:
			if err := c.writeBy.await(c.out.room); err != nil {
				return written, err
			}
		default:
			chunk := bytes.Clone(p[written:min(written+min(room, chunkBytes), len(p))])
			written += len(chunk)
			c.put(chunk)
		}
	}
}

// room is how many bytes the send buffer has room for.
func (c *conn) room() (room int, err error) {
	c.net.do(func() {
		err = c.unwritable()
		room = c.net.model.cfg.SendBuffer - c.out.held
	})
	return room, err
}

// unwritable returns why nothing can be written, nil where something can. The caller
// holds net.mu.
func (c *conn) unwritable() error {
	switch {
	case c.closed:
		return net.ErrClosed
	case c.err != nil:
		return c.err
	case c.out.shut:
		return syscall.EPIPE
	}
	return nil
}

// put adds a chunk for which there is room. Where the connection has failed since the
// check for room, the chunk is lost like all bytes under way, and the next write fails.
func (c *conn) put(chunk []byte) {
	c.net.do(func() {
		if c.unwritable() != nil {
			return
		}
		c.out.chunks.push(chunk)
		c.out.held += len(chunk)
		c.net.model.write(c.out.flow, len(chunk))
	})
}

// CloseWrite tells the peer that nothing follows. Bytes of the peer can still be read.
func (c *conn) CloseWrite() error {
	err := error(nil)
	c.net.do(func() {
		if err = c.unwritable(); err == nil {
			c.out.shut = true
			c.net.model.finish(c.out.flow)
			c.wake()
		}
	})
	return c.opError("close", err)
}

// Close ends this end. Bytes that were written are still sent, unless bytes that arrived
// were not read: then, as with TCP, the peer gets a reset.
func (c *conn) Close() error {
	err := error(nil)
	c.net.do(func() { err = c.shut() })
	c.readBy.set(time.Time{}) // so that its timer ends
	c.writeBy.set(time.Time{})
	return c.opError("close", err)
}

// shut does what Close does. The caller holds net.mu.
func (c *conn) shut() error {
	if c.closed {
		return net.ErrClosed
	}
	c.closed = true
	delete(c.net.conns, c)
	if c.in.readable > 0 {
		c.net.abort(c)
	} else if c.err == nil {
		c.net.model.finish(c.out.flow)
	}
	c.wake()
	return nil
}

func (c *conn) SetDeadline(t time.Time) error {
	return errors.Join(c.SetReadDeadline(t), c.SetWriteDeadline(t))
}

func (c *conn) SetReadDeadline(t time.Time) error { return c.setDeadline(&c.readBy, t) }

func (c *conn) SetWriteDeadline(t time.Time) error { return c.setDeadline(&c.writeBy, t) }

func (c *conn) setDeadline(d *deadline, t time.Time) error {
	c.net.mu.Lock()
	closed := c.closed
	if !closed {
		d.set(t)
	}
	c.net.mu.Unlock()
	if closed {
		return c.opError("set", net.ErrClosed)
	}
	return nil
}
