// Package m2ntest is for tests of connections: it has a TCP proxy that misbehaves on
// command. The package may not know what the bytes mean.
package m2ntest

import (
	"context"
	"errors"
	"fmt"
	"net"
	"strings"
	"sync"
	"sync/atomic"
	"time"
)

// Fault is what a proxy does with the bytes of one direction.
type Fault uint8

// Faults.
const (
	// Pass hands bytes on.
	Pass Fault = iota
	// Drop reads bytes and throws them away: the sender notices nothing.
	Drop
	// Stall reads nothing more, so that the sender's writes fill up and block.
	Stall
	// Corrupt flips one bit of the next bytes, and passes from then on.
	Corrupt
)

// Direction is one way through the proxy, seen from the end that dials the proxy.
type Direction uint8

// Directions.
const (
	ToTarget Direction = iota
	FromTarget
)

// Proxy forwards TCP connections to a target. Any goroutine may call all methods at any
// time. Faults apply to open connections and to new ones.
type Proxy struct {
	target   string
	listener net.Listener
	ctx      context.Context
	cancel   context.CancelFunc
	running  sync.WaitGroup
	ways     [2]way

	accepted int // only accept uses it

	mu    sync.Mutex
	conns map[net.Conn]struct{}
}

// way is the state of one direction.
type way struct {
	delay atomic.Int64 // ns
	bytes atomic.Int64 // passed on

	mu      sync.Mutex
	fault   Fault
	of      map[int]Fault // faults of single connections, by number
	after   map[int]later // faults that begin later in a connection, by number
	changed chan struct{} // closed when a fault changes
}

// NewProxy listens on a free port of 127.0.0.1 and forwards to target,
// "host:port" or "tcp:host:port".
func NewProxy(target string) (*Proxy, error) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return nil, fmt.Errorf("fault proxy to %s: %w", target, err)
	}
	p := &Proxy{target: strings.TrimPrefix(target, "tcp:"), listener: l, conns: make(map[net.Conn]struct{})}
	p.ctx, p.cancel = context.WithCancel(context.Background())
	for i := range p.ways {
		p.ways[i].changed = make(chan struct{})
	}
	p.running.Go(p.accept)
	return p, nil
}

// Addr is the address at which the proxy listens, "tcp:127.0.0.1:PORT".
func (p *Proxy) Addr() string { return "tcp:" + p.listener.Addr().String() }

// Set chooses what happens to the bytes of a direction.
func (p *Proxy) Set(d Direction, f Fault) { p.ways[d].set(f) }

// SetOf chooses the fault of one connection and direction, until the next Set.
// Connections are numbered from 0, in the order in which the proxy accepted them.
func (p *Proxy) SetOf(conn int, d Direction, f Fault) { p.ways[d].setOf(conn, f) }

// SetAfter chooses a fault of one connection and direction that begins when so many more
// bytes of it have been passed on: inside of a message, for example.
func (p *Proxy) SetAfter(conn int, d Direction, bytes int, f Fault) {
	p.ways[d].setAfter(conn, bytes, f)
}

// SetBoth chooses what happens to the bytes of both directions.
func (p *Proxy) SetBoth(f Fault) {
	p.Set(ToTarget, f)
	p.Set(FromTarget, f)
}

// Delay makes the bytes of a direction arrive later by d. The throughput stays the same.
func (p *Proxy) Delay(d Direction, by time.Duration) { p.ways[d].delay.Store(int64(by)) }

// Bytes counts the bytes that were passed on in a direction.
func (p *Proxy) Bytes(d Direction) int64 { return p.ways[d].bytes.Load() }

// Cut resets all open connections. New ones are still accepted.
func (p *Proxy) Cut() {
	p.mu.Lock()
	defer p.mu.Unlock()
	for c := range p.conns {
		reset(c)
	}
}

func reset(c net.Conn) {
	if t, ok := c.(*net.TCPConn); ok {
		_ = t.SetLinger(0) // on an error Close below closes it without a reset
	}
	c.Close()
}

// Close ends the proxy and its connections.
func (p *Proxy) Close() {
	p.cancel()
	p.listener.Close()
	p.Cut()
	p.running.Wait()
}

func (p *Proxy) accept() {
	for {
		in, err := p.listener.Accept()
		if err != nil {
			return
		}
		n := p.accepted
		p.accepted++
		p.running.Go(func() { p.forward(n, in) })
	}
}

// forward joins a connection with one to the target, until both directions end.
func (p *Proxy) forward(n int, in net.Conn) {
	defer in.Close()
	out, err := new(net.Dialer).DialContext(p.ctx, "tcp", p.target)
	if err != nil {
		return
	}
	defer out.Close()
	if !p.own(in, out) {
		return
	}
	defer p.disown(in, out)
	var both sync.WaitGroup
	both.Go(func() { stream{&p.ways[ToTarget], n}.copy(p.ctx, out, in) })
	both.Go(func() { stream{&p.ways[FromTarget], n}.copy(p.ctx, in, out) })
	both.Wait()
}

func (p *Proxy) own(conns ...net.Conn) bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	for _, c := range conns {
		p.conns[c] = struct{}{}
	}
	return p.ctx.Err() == nil
}

func (p *Proxy) disown(conns ...net.Conn) {
	p.mu.Lock()
	defer p.mu.Unlock()
	for _, c := range conns {
		delete(p.conns, c)
	}
}

func (w *way) set(f Fault) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.fault, w.of, w.after = f, nil, nil
	w.notify()
}

func (w *way) setOf(conn int, f Fault) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.of == nil {
		w.of = make(map[int]Fault)
	}
	w.of[conn] = f
	w.notify()
}

// notify wakes the goroutines that wait for another fault. The caller holds mu.
func (w *way) notify() {
	close(w.changed)
	w.changed = make(chan struct{})
}

// later is a fault that begins inside of a stream.
type later struct {
	bytes int // that are passed on before the fault
	fault Fault
}

func (w *way) setAfter(conn, bytes int, f Fault) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.after == nil {
		w.after = make(map[int]later)
	}
	w.after[conn] = later{bytes, f}
}

// stream is one direction of one connection.
type stream struct {
	*way
	conn int
}

// currentFault returns the present fault, and ends it where it is a corruption: that
// happens once.
func (s stream) currentFault() Fault {
	s.mu.Lock()
	defer s.mu.Unlock()
	f := s.present()
	if f == Corrupt {
		s.pardon()
	}
	return f
}

// present is the connection's own fault, or that of all connections. The caller holds
// mu.
func (s stream) present() Fault {
	if f, single := s.of[s.conn]; single {
		return f
	}
	return s.fault
}

// pardon ends the present fault. The caller holds mu.
func (s stream) pardon() {
	if _, single := s.of[s.conn]; single {
		s.of[s.conn] = Pass
	} else {
		s.fault = Pass
	}
}

// look returns the present fault, and a channel that is closed when a fault changes.
func (s stream) look() (Fault, <-chan struct{}) {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.present(), s.changed
}

// chunk is some bytes that are to be written when they are due.
type chunk struct {
	bytes []byte
	due   time.Time
}

// copy moves bytes until the source ends or the sink fails. While bytes are dropped or
// stalled, a sink that fails does not end it: on a broken path the failure could not be
// seen either.
func (s stream) copy(ctx context.Context, dst, src net.Conn) {
	chunks := make(chan chunk, 64)
	done := make(chan struct{})
	go func() {
		defer close(done)
		s.deliver(ctx, dst, chunks)
	}()
	s.collect(ctx, src, chunks)
	close(chunks)
	<-done
}

// collect reads bytes, as far as the fault allows.
func (s stream) collect(ctx context.Context, src net.Conn, chunks chan<- chunk) {
	for {
		if !s.awaitFlow(ctx) {
			return
		}
		b := make([]byte, 32<<10)
		n, err := src.Read(b)
		if n > 0 {
			s.hand(ctx, b[:n], chunks)
		}
		if err != nil {
			return
		}
	}
}

// hand passes on the bytes before the place where a fault begins, and treats the bytes
// after that place as the fault says.
func (s stream) hand(ctx context.Context, b []byte, chunks chan<- chunk) {
	before := s.upTo(len(b))
	if before > 0 {
		s.pass(b[:before], chunks)
	}
	if before == len(b) {
		return
	}
	s.begin()
	if s.awaitFlow(ctx) {
		s.pass(b[before:], chunks)
	}
}

// upTo returns how many of n bytes come before the place where a fault begins.
func (s stream) upTo(bytes int) int {
	s.mu.Lock()
	defer s.mu.Unlock()
	l, ok := s.after[s.conn]
	if !ok {
		return bytes
	}
	before := min(bytes, l.bytes)
	l.bytes -= before
	s.after[s.conn] = l
	return before
}

// begin makes the fault whose place is reached the present one.
func (s stream) begin() {
	s.mu.Lock()
	l := s.after[s.conn]
	delete(s.after, s.conn)
	s.mu.Unlock()
	s.setOf(s.conn, l.fault)
}

// pass treats bytes as the present fault says.
func (s stream) pass(b []byte, chunks chan<- chunk) {
	switch s.currentFault() {
	case Drop:
		return
	case Corrupt:
		b[len(b)/2] ^= 1
	}
	chunks <- chunk{b, time.Now().Add(time.Duration(s.delay.Load()))}
}

// awaitFlow waits while the direction is stalled. It returns false when the proxy closes.
func (s stream) awaitFlow(ctx context.Context) bool {
	for {
		fault, changed := s.look()
		if fault != Stall {
			return ctx.Err() == nil
		}
		select {
		case <-changed:
		case <-ctx.Done():
			return false
		}
	}
}

// deliver writes chunks when they are due, and passes on the end of the stream.
func (s stream) deliver(ctx context.Context, dst net.Conn, chunks <-chan chunk) {
	var failed error
	for c := range chunks {
		if failed != nil || !sleepUntil(ctx, c.due) {
			continue
		}
		if _, failed = dst.Write(c.bytes); failed == nil {
			s.bytes.Add(int64(len(c.bytes)))
		}
	}
	s.endOf(ctx, dst, failed)
}

// endOf closes the sink's half. Where the direction is silent, it waits until the fault
// is over.
func (s stream) endOf(ctx context.Context, dst net.Conn, failed error) {
	for {
		fault, changed := s.look()
		if fault != Drop && fault != Stall || errors.Is(failed, net.ErrClosed) {
			break
		}
		select {
		case <-changed:
			continue
		case <-ctx.Done():
		}
		break
	}
	if t, ok := dst.(*net.TCPConn); ok {
		_ = t.CloseWrite() // an error means that the connection has failed
	}
}

func sleepUntil(ctx context.Context, due time.Time) bool {
	d := time.Until(due)
	if d <= 0 {
		return true
	}
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-t.C:
		return true
	case <-ctx.Done():
		return false
	}
}
