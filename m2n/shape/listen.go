package shape

import (
	"context"
	"fmt"
	"net"
	"sync"
	"syscall"
)

// listener accepts connections to one port of a host. Its backlog has no bound.
type listener struct {
	net       *Network
	addr      addr
	accepting sync.Mutex
	news      notifier

	// Guarded by net.mu:
	backlog queue[*conn]
	closed  bool
}

// Listener listens at the next free port of a host. Its address is HOST:PORT, for Dial;
// m2n.Endpoint.SetPeer takes it as tcp:HOST:PORT.
func (n *Network) Listener(name string) (net.Listener, error) {
	l := &listener{net: n, news: newNotifier()}
	err := n.at(name, func(h *host) {
		l.addr = n.port(h)
		l.closed = n.closed
		n.listeners[string(l.addr)] = l
	})
	return l, err
}

// port returns the next free address of a host. The caller holds mu.
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
		c, err := l.popWaiting()
		switch {
		case err != nil:
			return nil, l.opError("accept", err)
		case c != nil:
			return c, nil
		}
		<-l.news
	}
}

func (l *listener) popWaiting() (c *conn, err error) {
	l.net.do(func() {
		switch {
		case l.closed:
			err = net.ErrClosed
			l.news.notify() // another goroutine may wait in Accept
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

// shut does what Close does. The caller holds net.mu.
func (l *listener) shut() error {
	if l.closed {
		return net.ErrClosed
	}
	l.closed = true
	delete(l.net.listeners, string(l.addr))
	for l.backlog.len() > 0 {
		c := l.backlog.pop()
		l.net.abort(c)
		c.shut() //nolint:errcheck // it fails only where it is closed already
	}
	l.news.notify()
	return nil
}

// call is a dial under way.
type call struct {
	path   *path
	client addr
	server addr
	answer chan *conn // nil: refused

	// Guarded by Network.mu:
	ended bool // the goroutine that dials waits no more
}

// Dial returns the function by which a host dials a HOST:PORT of the network. Connecting
// takes a round trip. The error is ECONNREFUSED where nobody listens there. Dialling a
// host that is cut off lasts, as with TCP, until ctx ends.
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
		n.model.signal(there, func() { n.arrive(c) }, true)
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
		n.giveUp(c)
		return nil, ctx.Err()
	case <-n.over.Done():
		return nil, net.ErrClosed
	}
}

// arrive is called when the request to connect is at the host that is dialled. The caller
// holds mu.
func (n *Network) arrive(c *call) {
	back := n.model.path(c.path.to, c.path.from)
	l := n.listeners[string(c.server)]
	if l == nil {
		n.model.signal(back, func() { c.answer <- nil }, true)
		return
	}
	client, server := n.connect(c.path, c.client, c.server)
	l.backlog.push(server)
	l.news.notify()
	n.model.signal(back, func() { n.handOver(c, client) }, true)
}

// handOver hands the connection to the goroutine that dials. The caller holds mu.
func (n *Network) handOver(c *call, client *conn) {
	if c.ended {
		n.abort(client)
		client.shut() //nolint:errcheck // it fails only where it is closed already
		return
	}
	c.answer <- client
}

// giveUp ends a dial whose goroutine waits no more.
func (n *Network) giveUp(c *call) {
	n.do(func() {
		c.ended = true
		select {
		case client := <-c.answer:
			if client != nil {
				client.shut() //nolint:errcheck // it fails only where it is closed already
			}
		default:
		}
	})
}
