package m2n

import (
	"context"
	"crypto/tls"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"sync"
	"time"

	"github.com/tandem-moe/tandem/m2n/internal/wire"
)

// handshakeConn is a connection during its handshake. The handshake's context bounds
// all reads and writes, until detach.
type handshakeConn struct {
	ep     *Endpoint
	conn   net.Conn
	secure bool // by TLS
	// detach ends the context's power over the connection. It returns an error where the
	// context has ended before: then the connection cannot be used.
	detach func() error
}

// tlsWrapper is how TCP connections are secured, as client or server; nil where they
// are not.
func (e *Endpoint) tlsWrapper(role func(net.Conn, *tls.Config) *tls.Conn) func(net.Conn) net.Conn {
	if e.cfg.TLS == nil {
		return nil
	}
	return func(c net.Conn) net.Conn { return role(c, e.cfg.TLS) }
}

// newHandshakeConn begins a handshake, which fails when ctx ends. wrap may be nil.
func newHandshakeConn(ctx context.Context, e *Endpoint, conn net.Conn, wrap func(net.Conn) net.Conn) *handshakeConn {
	c := &handshakeConn{ep: e, conn: conn, secure: wrap != nil}
	if wrap != nil {
		c.conn = wrap(conn)
	}
	over := make(chan struct{})
	stop := context.AfterFunc(ctx, func() {
		defer close(over)
		conn.SetDeadline(time.Now()) //nolint:errcheck // an error means that the connection has failed, as is wanted
	})
	c.detach = sync.OnceValue(func() error {
		if stop() {
			close(over)
		}
		<-over
		return ctx.Err()
	})
	return c
}

// handshakeTLS shakes hands by TLS, where the connection is to be secured.
func (c *handshakeConn) handshakeTLS(ctx context.Context) error {
	t, ok := c.conn.(*tls.Conn)
	if !ok {
		return nil
	}
	err := t.HandshakeContext(ctx)
	if plain := new(tls.RecordHeaderError); errors.As(err, plain) && plain.Conn != nil {
		c.conn = plain.Conn // the peer does not speak TLS: it reads the refusal as plain bytes
		return &refusal{Reason: fmt.Sprintf("%q takes connections by TLS only, this one is plain", c.ep.cfg.ID)}
	}
	if err != nil {
		return fmt.Errorf("TLS with %s: %w", c.conn.RemoteAddr(), err)
	}
	return nil
}

// sendControl writes a frame of the handshake whose header is v in JSON.
func (c *handshakeConn) sendControl(kind wire.Kind, v any) error {
	b, err := c.encode(kind, v)
	if err == nil {
		_, err = c.conn.Write(b)
	}
	return err
}

func (c *handshakeConn) encode(kind wire.Kind, v any) ([]byte, error) {
	text, err := json.Marshal(v)
	return wire.AppendFrame(nil, &wire.Frame{Kind: kind, Epoch: c.ep.cfg.Epoch, Header: text}), err
}

// readGreeting reads a frame of that kind from the peer. A refusal is an error.
func (c *handshakeConn) readGreeting(kind wire.Kind) (greeting, error) {
	f, err := wire.ReadControl(c.conn)
	if err != nil {
		return greeting{}, fmt.Errorf("handshake: %w", wire.UnexpectedEOF(err))
	}
	switch f.Kind {
	case kind:
		return parseGreeting(f.Header)
	case wire.Refuse:
		return greeting{}, parseRefusal(f.Header)
	}
	return greeting{}, fmt.Errorf("%w: type %d in a handshake", ErrBadFrame, f.Kind)
}

// refuse tells the peer why, unless that fails.
func (c *handshakeConn) refuse(err error) {
	_ = c.detach()                                               // the deadline below holds from here on
	c.conn.SetDeadline(time.Now().Add(c.ep.cfg.DialTimeout / 4)) //nolint:errcheck // the write fails then
	_ = c.sendControl(wire.Refuse, refusalOf(err))               // else the peer sees the end of the connection
}
