package m2n

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"net"
	"sync/atomic"
	"time"

	"github.com/tandem-moe/tandem/m2n/internal/wire"
)

// Two ends that meet by TCP shake hands on each connection of the pair:
//
//	dials                                       listens
//	hello, lanes wanted         ──first──▶
//	                            ◀─────────      welcome, lanes, token
//	hello, lane, token          ──others─▶
//	                            ◀──first──      ready, when all have come
//
// or, instead of welcome or ready, a refusal. With shared memory
// (handshake_shm_linux.go) and fabrics (handshake_fabric.go) there is one connection,
// and the handshake tells the ends how messages travel beside it.

// maxHandshakes bounds the connections of a listener whose handshake is not over: those
// of strangers, and of peers that this end does not know yet.
const maxHandshakes = 4096

// Serve accepts peers at a socket that the caller has bound, and owns it from
// here on. It returns at once.
func (e *Endpoint) Serve(l net.Listener) error {
	e.mu.Lock()
	defer e.mu.Unlock()
	if e.closing {
		l.Close()
		return ErrClosed
	}
	e.listeners = append(e.listeners, l)
	e.spawn(func() { e.acceptLoop(l, e.handleTCP) })
	e.serveSHM(l)
	return nil
}

// acceptLoop accepts connections until Close closes the listener, and has handle shake
// hands on each.
func (e *Endpoint) acceptLoop(l net.Listener, handle func(net.Conn)) {
	var handshakes atomic.Int64
	for {
		conn, err := l.Accept()
		switch {
		case errors.Is(err, net.ErrClosed):
			return
		case err != nil: // out of descriptors, for example: other connections may end
			if !e.pause(10 * time.Millisecond) {
				return
			}
		case handshakes.Add(1) > maxHandshakes:
			handshakes.Add(-1)
			conn.Close()
		default:
			e.spawn(func() {
				defer handshakes.Add(-1)
				handle(conn)
			})
		}
	}
}

// pause waits. It returns false when the endpoint closes.
func (e *Endpoint) pause(d time.Duration) bool {
	select {
	case <-time.After(d):
		return true
	case <-e.ctx.Done():
		return false
	}
}

// handleTCP shakes hands with a peer that has connected. The peer gives up after its
// DialTimeout, so this end gives up, and says why, before that.
func (e *Endpoint) handleTCP(conn net.Conn) {
	ctx, cancel := context.WithTimeout(e.ctx, e.cfg.DialTimeout*3/4)
	defer cancel()
	c := newHandshakeConn(ctx, e, conn, e.tlsWrapper(tls.Server))
	if err := e.acceptTCP(ctx, c); err != nil {
		c.refuse(err)
		c.conn.Close()
	}
}

// acceptTCP reads the hello, and goes on with the handshake that the hello asks for.
func (e *Endpoint) acceptTCP(ctx context.Context, c *handshakeConn) error {
	if err := c.handshakeTLS(ctx); err != nil {
		return err
	}
	theirs, err := c.readGreeting(wire.Hello)
	if err != nil {
		return err
	}
	if theirs.Token != "" {
		return e.pendingLinks.join(ctx, c, theirs)
	}
	p, err := e.pairFor(ctx, theirs.pairID)
	if err != nil {
		return err
	}
	if err := p.awaitAccept(ctx); err != nil {
		return err
	}
	defer p.acceptOver()
	if theirs.Fabric != nil {
		return p.acceptFabric(c, theirs)
	}
	return p.acceptLanes(ctx, c, theirs)
}

// acceptLanes waits for the connections of all lanes, and makes the pair up.
func (p *pair) acceptLanes(ctx context.Context, c *handshakeConn, theirs greeting) error {
	conns, err := p.ep.gatherLanes(ctx, c, theirs)
	if err != nil {
		return err
	}
	l, err := newTCPLink(p, conns, theirs)
	if err != nil {
		closeConns(conns[1:])
		return err
	}
	if err := firstError(c.detach, func() error { return p.raiseAccepted(l, theirs.limits()) }); err != nil {
		l.abandon()
		closeConns(conns[1:])
		return err
	}
	if err := c.sendControl(wire.Ready, p.ep.greeting(theirs.pairID)); err != nil {
		p.fail(fmt.Errorf("handshake: %w", err))
	}
	l.start()
	return nil
}

// gatherLanes answers a hello, and waits for the other connections of the pair.
func (e *Endpoint) gatherLanes(ctx context.Context, c *handshakeConn, theirs greeting) ([]*handshakeConn, error) {
	mine := e.greeting(theirs.pairID)
	mine.Lanes = max(1, min(theirs.Lanes, maxLanes))
	pending := e.pendingLinks.open(mine.Lanes)
	defer e.pendingLinks.close(pending)
	mine.Token = pending.token
	if err := c.sendControl(wire.Welcome, mine); err != nil {
		return nil, err
	}
	return pending.wait(ctx, c)
}

// raiseAccepted makes the pair up with a link that the peer has dialled.
func (p *pair) raiseAccepted(l *wireLink, lim limits) error {
	p.mu.Lock()
	defer p.mu.Unlock()
	now, err := p.mayAccept()
	switch {
	case err != nil:
		return err
	case !now:
		return &refusal{Reason: fmt.Sprintf("%q is dialling itself", p.ep.cfg.ID), Temporary: true}
	}
	p.markUp(l, lim)
	return nil
}

// dialTCP connects the pair by TCP.
func (p *pair) dialTCP(ctx context.Context, addr string) error {
	conns, theirs, err := p.dialLanes(ctx, addr)
	if err == nil {
		err = p.raiseDialledTCP(conns, theirs)
	}
	if err != nil {
		closeConns(conns)
	}
	return err
}

// dialLanes makes the connections of all lanes, and shakes hands on them. On an error
// the connections made so far are returned too.
func (p *pair) dialLanes(ctx context.Context, addr string) (conns []*handshakeConn, theirs greeting, err error) {
	mine := p.ep.greeting(pairID{From: p.ep.cfg.ID, FromEpoch: p.ep.cfg.Epoch, To: p.id, ToEpoch: p.epoch})
	mine.Lanes = p.ep.cfg.Connections
	for i := 0; i == 0 || i < mine.Lanes; i++ {
		mine.Lane = i
		c, err := p.ep.dialLane(ctx, addr, mine)
		if err != nil {
			return conns, theirs, err
		}
		conns = append(conns, c)
		if i > 0 {
			continue
		}
		if theirs, err = c.readGreeting(wire.Welcome); err != nil {
			return conns, theirs, err
		}
		mine.Token, mine.Lanes = theirs.Token, max(1, min(theirs.Lanes, mine.Lanes))
	}
	theirs, err = conns[0].readGreeting(wire.Ready)
	return conns, theirs, err
}

// dialLane makes one connection, and says hello on it.
func (e *Endpoint) dialLane(ctx context.Context, addr string, g greeting) (*handshakeConn, error) {
	conn, err := e.dialer()(ctx, addr)
	if err != nil {
		return nil, err
	}
	c := newHandshakeConn(ctx, e, conn, e.tlsWrapper(tls.Client))
	err = firstError(func() error { return c.handshakeTLS(ctx) }, func() error { return c.sendControl(wire.Hello, g) })
	if err != nil {
		c.conn.Close()
		return nil, err
	}
	return c, nil
}

func (p *pair) raiseDialledTCP(conns []*handshakeConn, theirs greeting) error {
	for _, c := range conns {
		if err := c.detach(); err != nil {
			return err
		}
	}
	l, err := newTCPLink(p, conns, theirs)
	if err != nil {
		return err
	}
	if err := p.raiseDialled(l, theirs.limits()); err != nil {
		l.abandon()
		return err
	}
	l.start()
	return nil
}

func newTCPLink(p *pair, conns []*handshakeConn, theirs greeting) (*wireLink, error) {
	window, err := newReceiveWindow(p.ep)
	if err != nil {
		return nil, err
	}
	return newWireLink(p, viaTCP, window, conns, theirs)
}

func closeConns(conns []*handshakeConn) {
	for _, c := range conns {
		c.conn.Close()
	}
}

// dialer is Config.Dial, or plain TCP.
func (e *Endpoint) dialer() func(ctx context.Context, addr string) (net.Conn, error) {
	if e.cfg.Dial != nil {
		return e.cfg.Dial
	}
	d := &net.Dialer{Timeout: e.cfg.DialTimeout / 4}
	return func(ctx context.Context, addr string) (net.Conn, error) { return d.DialContext(ctx, "tcp", addr) }
}

// raiseDialled makes the pair up with a link that this end has dialled.
func (p *pair) raiseDialled(l *wireLink, lim limits) error {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.phase != connecting {
		return errors.New("the pair has been connected otherwise, or is down")
	}
	p.markUp(l, lim)
	return nil
}

// firstError calls steps in order, up to the first that fails.
func firstError(steps ...func() error) error {
	for _, step := range steps {
		if err := step(); err != nil {
			return err
		}
	}
	return nil
}
