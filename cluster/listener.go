package cluster

import (
	"context"
	"errors"
	"io"
	"log/slog"
	"net"
	"os"
	"sync"
	"sync/atomic"
	"syscall"
	"time"
)

// MaxStrangers is how many connections of strangers may be open at a time. A stranger
// is a process that has not joined the cluster; members' connections do not count.
const MaxStrangers = 64

// listener bounds the connections of strangers: where there are too many, it closes the
// one that has been idle for longest. So silent connections cannot keep a node from
// joining.
type listener struct {
	net.Listener
	limit   int
	dropped func()

	mu        sync.Mutex
	strangers map[*conn]bool
}

// Bounded bounds the connections of processes that have not joined. It goes below TLS;
// the server on top of it must use [ConnContext].
func (s *Server) Bounded(l net.Listener) net.Listener {
	return &listener{
		Listener: l, limit: MaxStrangers, strangers: map[*conn]bool{},
		dropped: func() {
			s.log().Limited(slog.LevelWarn,
				"too many connections of processes that have not joined: the idlest are closed", "limit", MaxStrangers)
		},
	}
}

// Accept returns a connection, and closes the idlest other one where there are too many.
func (l *listener) Accept() (net.Conn, error) {
	accepted, err := l.Listener.Accept()
	if err != nil {
		return nil, err
	}
	c := &conn{Conn: accepted, listener: l}
	c.active.Store(time.Now().UnixNano())
	if idlest := l.add(c); idlest != nil {
		l.dropped()
		_ = idlest.Close()
	}
	return c, nil
}

// add adds a stranger's connection, and returns the connection that must be closed for
// it, or nil.
func (l *listener) add(c *conn) (idlest *conn) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if len(l.strangers) >= l.limit {
		for s := range l.strangers {
			if idlest == nil || s.active.Load() < idlest.active.Load() {
				idlest = s
			}
		}
		delete(l.strangers, idlest)
	}
	l.strangers[c] = true
	return idlest
}

// conn is a connection that records when it last received bytes, whether it is a
// member's, and how it ended.
type conn struct {
	net.Conn
	listener *listener
	active   atomic.Int64 // nanoseconds since 1970
	members  int          // number of members' streams on it; under the listener's mutex
	closed   bool         // Close was called; under the listener's mutex

	ending sync.Once
	end    atomic.Pointer[error]
}

// NetConn is the connection below.
func (c *conn) NetConn() net.Conn { return c.Conn }

func (c *conn) Read(b []byte) (int, error) {
	n, err := c.Conn.Read(b)
	if n > 0 {
		c.active.Store(time.Now().UnixNano())
	}
	c.note(err)
	return n, err
}

func (c *conn) Write(b []byte) (int, error) {
	n, err := c.Conn.Write(b)
	c.note(err)
	return n, err
}

// note keeps the first error that ends the connection. An expired deadline does not end
// it.
func (c *conn) note(err error) {
	if err != nil && !errors.Is(err, os.ErrDeadlineExceeded) {
		c.ending.Do(func() { c.end.Store(&err) })
	}
}

func (c *conn) Close() error {
	c.note(net.ErrClosed)
	l := c.listener
	l.mu.Lock()
	c.closed = true
	delete(l.strangers, c)
	l.mu.Unlock()
	return c.Conn.Close()
}

// join makes the connection a member's until leave is called.
func (c *conn) join() (leave func()) {
	l := c.listener
	l.mu.Lock()
	defer l.mu.Unlock()
	c.members++
	delete(l.strangers, c)
	return func() {
		l.mu.Lock()
		defer l.mu.Unlock()
		if c.members--; c.members == 0 && !c.closed {
			l.strangers[c] = true
		}
	}
}

// why says how the connection ended; "" where it has not.
func (c *conn) why() string {
	end := c.end.Load()
	switch {
	case end == nil:
		return ""
	case errors.Is(*end, io.EOF):
		return "its connection ended without a farewell"
	case errors.Is(*end, syscall.ECONNRESET):
		return "its connection was reset"
	case errors.Is(*end, net.ErrClosed):
		return "its connection did not answer and was closed"
	}
	return "its connection failed: " + (*end).Error()
}

// connKey is the key of the connection in a request's context.
type connKey struct{}

// ConnContext is for the server that listens on [Server.Bounded]: it puts a request's
// connection into the request's context.
func ConnContext(ctx context.Context, c net.Conn) context.Context {
	for {
		if ours, ok := c.(*conn); ok {
			return context.WithValue(ctx, connKey{}, ours)
		}
		below, ok := c.(interface{ NetConn() net.Conn })
		if !ok {
			return ctx
		}
		c = below.NetConn()
	}
}

// connOf returns a request's connection; nil where the server does not listen on
// [Server.Bounded].
func connOf(ctx context.Context) *conn {
	c, _ := ctx.Value(connKey{}).(*conn)
	return c
}

// joined makes a request's connection a member's until leave is called.
func joined(ctx context.Context) (leave func()) {
	if c := connOf(ctx); c != nil {
		return c.join()
	}
	return func() {}
}

// LostBecause says how a request's connection ended, in words that follow "node X is
// lost: "; "" where it has not ended or that is not known.
func LostBecause(ctx context.Context) string {
	if c := connOf(ctx); c != nil {
		return c.why()
	}
	return ""
}
