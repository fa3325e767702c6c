package m2n

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"sync/atomic"
	"time"
)

// readBuffer is small, so that most of a body goes straight to its slot.
const readBuffer = 16 << 10

// maxStrangers bounds the connections that have not said who they are or are not
// known yet.
const maxStrangers = 4096

// Serve accepts peers at a socket that the caller has bound, and owns it from
// here on. It returns at once.
func (e *Endpoint) Serve(l net.Listener) error {
	e.mu.Lock()
	defer e.mu.Unlock()
	if e.closing {
		l.Close()
		return ErrClosed
	}
	e.sockets = append(e.sockets, l)
	e.spawn(func() { e.accept(l) })
	return nil
}

// accept takes connections until Close closes the socket.
func (e *Endpoint) accept(l net.Listener) {
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
		case strangers.Add(1) > maxStrangers:
			strangers.Add(-1)
			conn.Close()
		default:
			e.spawn(func() {
				defer strangers.Add(-1)
				e.meet(conn)
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
func (e *Endpoint) meet(conn net.Conn) {
	ctx, cancel := context.WithTimeout(e.ctx, e.cfg.DialTimeout*3/4)
	defer cancel()
	s := newStream(ctx, e, conn)
	if err := e.welcome(ctx, s); err != nil {
		s.refuse(err)
		conn.Close()
	}
}

// welcome reads the hello and takes the connection.
func (e *Endpoint) welcome(ctx context.Context, s *stream) error {
	theirs, err := s.hear(frameHello)
	if err != nil {
		return err
	}
	p, err := e.pairFor(ctx, theirs.hello)
	if err != nil {
		return err
	}
	if err := p.awaitTurn(ctx); err != nil {
		return err
	}
	l, err := newTCPLink(p, s, theirs)
	if err != nil {
		return err
	}
	if err := firstError(s.keep, func() error { return p.take(l, theirs.limits()) }); err != nil {
		l.slots.unref()
		return err
	}
	l.run(s.say(frameWelcome, e.greeting(theirs.hello)))
	return nil
}

// take raises the pair with a connection that the peer has made.
func (p *pair) take(l *tcpLink, lim limits) error {
	p.mu.Lock()
	defer p.mu.Unlock()
	mine, err := p.mayTake()
	switch {
	case err != nil:
		return err
	case !mine:
		return &refusal{Reason: fmt.Sprintf("%q is dialling itself", p.ep.cfg.ID), Temporary: true}
	}
	p.raise(l, lim)
	return nil
}

// dialTCP makes one connection, and raises the pair with it.
func (p *pair) dialTCP(ctx context.Context, addr string) error {
	conn, err := p.ep.dialer()(ctx, addr)
	if err != nil {
		return err
	}
	s := newStream(ctx, p.ep, conn)
	if err := p.introduce(s); err != nil {
		conn.Close()
		return err
	}
	return nil
}

// dialer is Config.Dial, or plain TCP.
func (e *Endpoint) dialer() func(ctx context.Context, addr string) (net.Conn, error) {
	if e.cfg.Dial != nil {
		return e.cfg.Dial
	}
	d := &net.Dialer{Timeout: e.cfg.DialTimeout / 4}
	return func(ctx context.Context, addr string) (net.Conn, error) { return d.DialContext(ctx, "tcp", addr) }
}

// introduce says hello and hears the welcome.
func (p *pair) introduce(s *stream) error {
	h := hello{From: p.ep.cfg.ID, FromEpoch: p.ep.cfg.Epoch, To: p.id, ToEpoch: p.epoch}
	if err := s.say(frameHello, p.ep.greeting(h)); err != nil {
		return err
	}
	theirs, err := s.hear(frameWelcome)
	if err != nil {
		return err
	}
	l, err := newTCPLink(p, s, theirs)
	if err != nil {
		return err
	}
	if err := firstError(s.keep, func() error { return p.adopt(l, theirs.limits()) }); err != nil {
		l.slots.unref()
		return err
	}
	l.run(nil)
	return nil
}

// adopt raises the pair with a connection that this end has made.
func (p *pair) adopt(l *tcpLink, lim limits) error {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.phase != connecting {
		return errors.New("the pair has been connected otherwise, or is down")
	}
	p.raise(l, lim)
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

// stream is a connection before the ends know each other: what was read of it
// too much stays in the buffer for the link.
type stream struct {
	ep    *Endpoint
	conn  net.Conn
	clock *listener
	in    frameReader
	keep  func() error // ends ctx's power over the connection, if it is not over
}

// newStream begins a handshake, which ends with ctx.
func newStream(ctx context.Context, e *Endpoint, conn net.Conn) *stream {
	s := &stream{ep: e, conn: conn, clock: &listener{conn: conn}}
	s.in = frameReader{r: bufio.NewReaderSize(s.clock, readBuffer), lim: handshakeBounds}
	over := make(chan struct{})
	stop := context.AfterFunc(ctx, func() {
		defer close(over)
		conn.SetDeadline(time.Now()) //nolint:errcheck // it fails where the connection has, and that is what is wanted
	})
	s.keep = func() error {
		if stop() {
			close(over)
		}
		<-over
		return ctx.Err()
	}
	return s
}

func (s *stream) say(kind frameType, what any) error {
	text, err := json.Marshal(what)
	if err != nil {
		return err
	}
	_, err = s.conn.Write(appendFrame(nil, &frame{kind: kind, epoch: s.ep.cfg.Epoch, header: text}))
	return err
}

// hear reads the greeting of the other end.
func (s *stream) hear(kind frameType) (greeting, error) {
	f, err := s.in.next()
	if err != nil {
		return greeting{}, fmt.Errorf("handshake: %w", insideFrame(err))
	}
	switch f.kind {
	case kind:
		return parseGreeting(f.header)
	case frameRefuse:
		r := new(refusal)
		if err := json.Unmarshal(f.header, r); err != nil {
			return greeting{}, fmt.Errorf("%w: refusal: %w", ErrBadFrame, err)
		}
		return greeting{}, r
	}
	return greeting{}, fmt.Errorf("%w: type %d in a handshake", ErrBadFrame, f.kind)
}

// refuse tells the peer why, where it still listens.
func (s *stream) refuse(err error) {
	_ = s.keep()                                                 // from here on the deadline is the one below
	s.conn.SetDeadline(time.Now().Add(s.ep.cfg.DialTimeout / 4)) //nolint:errcheck // the write fails then
	_ = s.say(frameRefuse, refusalOf(err))                       // the peer sees the end of the connection otherwise
}

// listener notes when something was heard on a connection.
type listener struct {
	conn  net.Conn
	heard atomic.Int64 // since epochStart
}

func (l *listener) Read(b []byte) (int, error) {
	n, err := l.conn.Read(b)
	if n > 0 {
		l.heard.Store(int64(now()))
	}
	return n, err
}

// began is the origin of this process's monotonic times.
var began = time.Now()

func now() time.Duration { return time.Since(began) }
