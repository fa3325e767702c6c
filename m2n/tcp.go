package m2n

import (
	"context"
	"crypto/tls"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"sync"
	"sync/atomic"
	"time"

	"github.com/tandem-moe/tandem/m2n/internal/wire"
)

// maxStrangers bounds the connections that have not said who they are or are not
// known yet.
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

// accept takes connections until Close closes the socket.
func (e *Endpoint) acceptLoop(l net.Listener, meet func(net.Conn)) {
	var strangers atomic.Int64
	for {
		conn, err := l.Accept()
		switch {
		case errors.Is(err, net.ErrClosed):
			return
		case err != nil: // out of descriptors, for example: others may end
			if !e.pause(10 * time.Millisecond) {
				return
			}
		case strangers.Add(1) > maxHandshakes:
			strangers.Add(-1)
			conn.Close()
		default:
			e.spawn(func() {
				defer strangers.Add(-1)
				meet(conn)
			})
		}
	}
}

// pause waits; false when the endpoint closes.
func (e *Endpoint) pause(d time.Duration) bool {
	select {
	case <-time.After(d):
		return true
	case <-e.ctx.Done():
		return false
	}
}

// meet shakes hands with a peer that has dialled. The peer gives up after its
// DialTimeout, so it hears the reason of a refusal before that.
func (e *Endpoint) handleTCP(conn net.Conn) {
	ctx, cancel := context.WithTimeout(e.ctx, e.cfg.DialTimeout*3/4)
	defer cancel()
	s := newHandshakeConn(ctx, e, conn, e.tlsWrapper(tls.Server))
	if err := e.acceptTCP(ctx, s); err != nil {
		s.refuse(err)
		s.conn.Close()
	}
}

// welcome reads the hello and takes the connection.
func (e *Endpoint) acceptTCP(ctx context.Context, s *handshakeConn) error {
	if err := s.handshakeTLS(ctx); err != nil {
		return err
	}
	theirs, err := s.readGreeting(wire.Hello)
	if err != nil {
		return err
	}
	if theirs.Token != "" {
		return e.pendingLinks.join(ctx, s, theirs)
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
		return p.acceptFabric(s, theirs)
	}
	return p.acceptLanes(ctx, s, theirs)
}

// receive gathers the connections of a pair, and raises it with them.
func (p *pair) acceptLanes(ctx context.Context, s *handshakeConn, theirs greeting) error {
	streams, err := p.ep.gatherLanes(ctx, s, theirs)
	if err != nil {
		return err
	}
	l, err := newTCPLink(p, streams, theirs)
	if err != nil {
		closeStreams(streams[1:])
		return err
	}
	if err := firstError(s.detach, func() error { return p.raiseAccepted(l, theirs.limits()) }); err != nil {
		l.abandon()
		closeStreams(streams[1:])
		return err
	}
	if err := s.sendControl(wire.Ready, p.ep.greeting(theirs.pairID)); err != nil {
		p.fail(fmt.Errorf("handshake: %w", err))
	}
	l.start()
	return nil
}

// gatherLanes answers a hello, and waits for the other connections of the pair.
func (e *Endpoint) gatherLanes(ctx context.Context, s *handshakeConn, theirs greeting) ([]*handshakeConn, error) {
	mine := e.greeting(theirs.pairID)
	mine.Lanes = max(1, min(theirs.Lanes, maxLanes))
	party := e.pendingLinks.open(mine.Lanes)
	defer e.pendingLinks.close(party)
	mine.Token = party.token
	if err := s.sendControl(wire.Welcome, mine); err != nil {
		return nil, err
	}
	return party.wait(ctx, s)
}

// take raises the pair with a connection that the peer has made.
func (p *pair) raiseAccepted(l *wireLink, lim limits) error {
	p.mu.Lock()
	defer p.mu.Unlock()
	mine, err := p.mayAccept()
	switch {
	case err != nil:
		return err
	case !mine:
		return &refusal{Reason: fmt.Sprintf("%q is dialling itself", p.ep.cfg.ID), Temporary: true}
	}
	p.markUp(l, lim)
	return nil
}

// dialTCP makes the connections of the pair, and raises it with them.
func (p *pair) dialTCP(ctx context.Context, addr string) error {
	streams, theirs, err := p.dialLanes(ctx, addr)
	if err == nil {
		err = p.newDialledLink(streams, theirs)
	}
	if err != nil {
		closeStreams(streams)
	}
	return err
}

// introduce says hello on one connection, makes the others, and hears that all
// are there.
func (p *pair) dialLanes(ctx context.Context, addr string) (streams []*handshakeConn, theirs greeting, err error) {
	h := pairID{From: p.ep.cfg.ID, FromEpoch: p.ep.cfg.Epoch, To: p.id, ToEpoch: p.epoch}
	mine := p.ep.greeting(h)
	mine.Lanes = p.ep.cfg.Connections
	for i := 0; i == 0 || i < mine.Lanes; i++ {
		mine.Lane = i
		s, err := p.ep.dialLane(ctx, addr, mine)
		if err != nil {
			return streams, theirs, err
		}
		streams = append(streams, s)
		if i > 0 {
			continue
		}
		if theirs, err = s.readGreeting(wire.Welcome); err != nil {
			return streams, theirs, err
		}
		mine.Token, mine.Lanes = theirs.Token, max(1, min(theirs.Lanes, mine.Lanes))
	}
	theirs, err = streams[0].readGreeting(wire.Ready)
	return streams, theirs, err
}

// call makes one connection and says hello.
func (e *Endpoint) dialLane(ctx context.Context, addr string, g greeting) (*handshakeConn, error) {
	conn, err := e.dialer()(ctx, addr)
	if err != nil {
		return nil, err
	}
	s := newHandshakeConn(ctx, e, conn, e.tlsWrapper(tls.Client))
	err = firstError(func() error { return s.handshakeTLS(ctx) }, func() error { return s.sendControl(wire.Hello, g) })
	if err != nil {
		s.conn.Close()
		return nil, err
	}
	return s, nil
}

func (p *pair) newDialledLink(streams []*handshakeConn, theirs greeting) error {
	for _, s := range streams {
		if err := s.detach(); err != nil {
			return err
		}
	}
	l, err := newTCPLink(p, streams, theirs)
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

func newTCPLink(p *pair, streams []*handshakeConn, theirs greeting) (*wireLink, error) {
	memory, err := newReceiveWindow(p.ep)
	if err != nil {
		return nil, err
	}
	return newWireLink(p, viaTCP, memory, streams, theirs)
}

func closeStreams(streams []*handshakeConn) {
	for _, s := range streams {
		s.conn.Close()
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

// adopt raises the pair with a connection that this end has made.
func (p *pair) raiseDialled(l *wireLink, lim limits) error {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.phase != connecting {
		return errors.New("the pair has been connected otherwise, or is down")
	}
	p.markUp(l, lim)
	return nil
}

func firstError(steps ...func() error) error {
	for _, step := range steps {
		if err := step(); err != nil {
			return err
		}
	}
	return nil
}

// stream is a connection before the ends know each other.
type handshakeConn struct {
	ep     *Endpoint
	conn   net.Conn
	secure bool
	detach func() error // ends ctx's power over the connection, if it is not over
}

// secure is how TCP connections are wrapped, where that is asked for.
func (e *Endpoint) tlsWrapper(role func(net.Conn, *tls.Config) *tls.Conn) func(net.Conn) net.Conn {
	if e.cfg.TLS == nil {
		return nil
	}
	return func(c net.Conn) net.Conn { return role(c, e.cfg.TLS) }
}

// newStream begins a handshake, which ends with ctx. wrap may be nil.
func newHandshakeConn(ctx context.Context, e *Endpoint, conn net.Conn, wrap func(net.Conn) net.Conn) *handshakeConn {
	s := &handshakeConn{ep: e, conn: conn, secure: wrap != nil}
	if wrap != nil {
		s.conn = wrap(conn)
	}
	over := make(chan struct{})
	stop := context.AfterFunc(ctx, func() {
		defer close(over)
		conn.SetDeadline(time.Now()) //nolint:errcheck // it fails where the connection has, and that is what is wanted
	})
	s.detach = sync.OnceValue(func() error {
		if stop() {
			close(over)
		}
		<-over
		return ctx.Err()
	})
	return s
}

// secured shakes hands by TLS, where that is asked for.
func (s *handshakeConn) handshakeTLS(ctx context.Context) error {
	c, ok := s.conn.(*tls.Conn)
	if !ok {
		return nil
	}
	err := c.HandshakeContext(ctx)
	if plain := new(tls.RecordHeaderError); errors.As(err, plain) && plain.Conn != nil {
		s.conn = plain.Conn // what is said from here on is heard
		return &refusal{Reason: fmt.Sprintf("%q takes connections by TLS only, this one is plain", s.ep.cfg.ID)}
	}
	if err != nil {
		return fmt.Errorf("TLS with %s: %w", s.conn.RemoteAddr(), err)
	}
	return nil
}

func (s *handshakeConn) sendControl(kind wire.Kind, what any) error {
	b, err := s.encode(kind, what)
	if err == nil {
		_, err = s.conn.Write(b)
	}
	return err
}

// frame encodes a frame of the handshake.
func (s *handshakeConn) encode(kind wire.Kind, what any) ([]byte, error) {
	text, err := json.Marshal(what)
	return wire.AppendFrame(nil, &wire.Frame{Kind: kind, Epoch: s.ep.cfg.Epoch, Header: text}), err
}

// hear reads the greeting of the other end.
func (s *handshakeConn) readGreeting(kind wire.Kind) (greeting, error) {
	f, err := wire.ReadControl(s.conn)
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

// refuse tells the peer why, where it still listens.
func (s *handshakeConn) refuse(err error) {
	_ = s.detach()                                               // from here on the deadline is the one below
	s.conn.SetDeadline(time.Now().Add(s.ep.cfg.DialTimeout / 4)) //nolint:errcheck // the write fails then
	_ = s.sendControl(wire.Refuse, refusalOf(err))               // the peer sees the end of the connection otherwise
}
