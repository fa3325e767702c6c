package shape

import (
	"context"
	"fmt"
	"net"
	"sync"
	"syscall"
)

// listener accepts what is dialled at one port of a host. Its backlog has no
// bound.
type listener struct {
	net       *Network
	addr      addr
	accepting sync.Mutex
	news      bell

	// Guarded by net.mu:
	backlog queue[*conn]
	closed  bool
}

// Listener listens at the next free port of a host. The address, HOST:PORT, is
// what Dial takes, and tcp:HOST:PORT what m2n.Endpoint.SetPeer does.
func (n *Network) Listener(name string) (net.Listener, error) {
	l := &listener{net: n, news: newBell()}
	err := n.at(name, func(h *host) {
		l.addr = n.port(h)
		l.closed = n.closed
		n.listeners[string(l.addr)] = l
	})
	return l, err
}

// port gives out the next address of a host. The caller holds mu.
func (n *Network) port(h *host) addr {
	n.ports++
	return addr(fmt.Sprintf("%s:%d", h.name, n.ports))
}

func (l *listener) Addr() net.Addr { return l.addr }

func (l *listener) opError(op string, err error) error {
	return &net.OpError{Op: op, Net: "shape", Addr: l.addr, Err: err}
}

// Accept waits for the next connection.
func (l *listener) Accept() (net.Conn, error) {
	l.accepting.Lock()
	defer l.accepting.Unlock()
	for {
		c, err := l.take()
		switch {
		case err != nil:
			return nil, l.opError("accept", err)
		case c != nil:
			return c, nil
		}
		<-l.news
	}
}

func (l *listener) take() (c *conn, err error) {
	l.net.do(func() {
		switch {
		case l.closed:
			err = net.ErrClosed
			l.news.ring() // for the next who asks
		case l.backlog.len() > 0:
			c = l.backlog.pop()
		}
	})
	return c, err
}

// Close stops listening. Connections that nobody has accepted are reset.
func (l *listener) Close() error {
	err := error(nil)
	l.net.do(func() { err = l.shut() })
	if err != nil {
		return l.opError("close", err)
	}
	return nil
}

// shut is Close. The caller holds net.mu.
func (l *listener) shut() error {
	if l.closed {
		return net.ErrClosed
	}
	l.closed = true
	delete(l.net.listeners, string(l.addr))
	for l.backlog.len() > 0 {
		c := l.backlog.pop()
		l.net.abort(c)
		c.shut() //nolint:errcheck // it was open
	}
	l.news.ring()
	return nil
}

// call is a dial under way.
type call struct {
	path   *path
	client addr
	server addr
	answer chan *conn // nil: refused

	// Guarded by Network.mu:
	ended bool // nobody waits for the answer
}

// Dial returns how a host dials: to a HOST:PORT of the network. Connecting takes
// a round trip; ECONNREFUSED says that nobody listens there. Towards a host that
// is cut it waits, like TCP, for as long as ctx lets it.
func (n *Network) Dial(host string) func(ctx context.Context, address string) (net.Conn, error) {
	return func(ctx context.Context, address string) (net.Conn, error) {
		c, err := n.dial(ctx, host, address)
		if err != nil {
			return nil, &net.OpError{Op: "dial", Net: "shape", Addr: addr(address), Err: err}
		}
		return c, nil
	}
}

func (n *Network) dial(ctx context.Context, from, address string) (*conn, error) {
	to, _, err := net.SplitHostPort(address)
	if err != nil {
		return nil, err
	}
	c := &call{server: addr(address), answer: make(chan *conn, 1)}
	err = n.between(from, to, func(there, _ *path) {
		c.path, c.client = there, n.port(there.from)
		n.model.signal(there, func() { n.ring(c) }, true)
	})
	if err != nil {
		return nil, err
	}
	select {
	case conn := <-c.answer:
		if conn == nil {
			return nil, syscall.ECONNREFUSED
		}
		return conn, nil
	case <-ctx.Done():
		n.hangUp(c)
		return nil, ctx.Err()
	case <-n.over.Done():
		return nil, net.ErrClosed
	}
}

// ring is a call's arrival at the host that is called. The caller holds mu.
func (n *Network) ring(c *call) {
	back := n.model.path(c.path.to, c.path.from)
	l := n.listeners[string(c.server)]
	if l == nil {
		n.model.signal(back, func() { c.answer <- nil }, true)
		return
	}
	client, server := n.connect(c.path, c.client, c.server)
	l.backlog.push(server)
	l.news.ring()
	n.model.signal(back, func() { n.pickUp(c, client) }, true)
}

// pickUp hands the connection to who dialled. The caller holds mu.
func (n *Network) pickUp(c *call, client *conn) {
	if c.ended {
		n.abort(client)
		client.shut() //nolint:errcheck // it was open
		return
	}
	c.answer <- client
}

// hangUp takes a call back.
func (n *Network) hangUp(c *call) {
	n.do(func() {
		c.ended = true
		select {
		case client := <-c.answer:
			if client != nil {
				client.shut() //nolint:errcheck // it was open
			}
		default:
		}
	})
}
