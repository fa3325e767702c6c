// Package m2ntest owns what tests of connections need: a TCP proxy that
// misbehaves on command. It may not know what the bytes mean.
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
	// Drop reads bytes and throws them away: to the sender all is well.
	Drop
	// Stall reads nothing more, so that the sender's writes fill up and block.
	Stall
	// Corrupt flips one bit of the next bytes, and passes from then on.
	Corrupt
)

// Direction is one way through the proxy, seen from who dials it.
type Direction uint8

// Directions.
const (
	ToTarget Direction = iota
	FromTarget
)

// Proxy forwards TCP connections to a target. All methods may be called at any
// time, from any goroutine; faults apply to open connections and to new ones.
type Proxy struct {
	target   string
	listener net.Listener
	ctx      context.Context
	cancel   context.CancelFunc
	running  sync.WaitGroup
	ways     [2]way

	mu    sync.Mutex
	conns map[net.Conn]struct{}
}

// way is the state of a direction.
type way struct {
	delay atomic.Int64 // ns
	bytes atomic.Int64 // passed on

	mu      sync.Mutex
	fault   Fault
	changed chan struct{} // closed when the fault changes
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

// Addr is where the proxy listens, "tcp:127.0.0.1:PORT".
func (p *Proxy) Addr() string { return "tcp:" + p.listener.Addr().String() }

// Set chooses what happens to the bytes of a direction.
func (p *Proxy) Set(d Direction, f Fault) { p.ways[d].set(f) }

// SetBoth chooses it for both directions.
func (p *Proxy) SetBoth(f Fault) {
	p.Set(ToTarget, f)
	p.Set(FromTarget, f)
}

// Delay makes bytes of a direction arrive so much later. The throughput stays.
func (p *Proxy) Delay(d Direction, by time.Duration) { p.ways[d].delay.Store(int64(by)) }

// Bytes counts what was passed on in a direction.
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
		_ = t.SetLinger(0) // it is closed below either way
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
		p.running.Go(func() { p.forward(in) })
	}
}

// forward joins a connection with one to the target, until both directions end.
func (p *Proxy) forward(in net.Conn) {
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
	both.Go(func() { p.ways[ToTarget].copy(p.ctx, out, in) })
	both.Go(func() { p.ways[FromTarget].copy(p.ctx, in, out) })
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
	w.fault = f
	close(w.changed)
	w.changed = make(chan struct{})
}

// take returns the present fault. A corruption happens once.
func (w *way) take() Fault {
	w.mu.Lock()
	defer w.mu.Unlock()
	f := w.fault
	if f == Corrupt {
		w.fault = Pass
	}
	return f
}

// look returns the present fault, and what is closed when it changes.
func (w *way) look() (Fault, <-chan struct{}) {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.fault, w.changed
}

// chunk is bytes on their way, to be written when they are due.
type chunk struct {
	bytes []byte
	due   time.Time
}

// copy moves bytes until the source ends or the sink fails. It does not end for a
// sink that fails while bytes are dropped or stalled: who cannot be heard cannot
// hang up either.
func (w *way) copy(ctx context.Context, dst, src net.Conn) {
	chunks := make(chan chunk, 64)
	done := make(chan struct{})
	go func() {
		defer close(done)
		w.deliver(ctx, dst, chunks)
	}()
	w.collect(ctx, src, chunks)
	close(chunks)
	<-done
}

// collect reads what the fault lets it read.
func (w *way) collect(ctx context.Context, src net.Conn, chunks chan<- chunk) {
	for {
		if !w.awaitFlow(ctx) {
			return
		}
		b := make([]byte, 32<<10)
		n, err := src.Read(b)
		if n > 0 {
			w.pass(b[:n], chunks)
		}
		if err != nil {
			return
		}
	}
}

// pass does to bytes what the fault says.
func (w *way) pass(b []byte, chunks chan<- chunk) {
	switch w.take() {
	case Drop:
		return
	case Corrupt:
		b[len(b)/2] ^= 1
	}
	chunks <- chunk{b, time.Now().Add(time.Duration(w.delay.Load()))}
}

// awaitFlow waits while the direction is stalled; false when the proxy closes.
func (w *way) awaitFlow(ctx context.Context) bool {
	for {
		fault, changed := w.look()
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

// deliver writes chunks when they are due, and hands on the end of the stream.
func (w *way) deliver(ctx context.Context, dst net.Conn, chunks <-chan chunk) {
	var failed error
	for c := range chunks {
		if failed != nil || !sleepUntil(ctx, c.due) {
			continue
		}
		if _, failed = dst.Write(c.bytes); failed == nil {
			w.bytes.Add(int64(len(c.bytes)))
		}
	}
	w.endOf(ctx, dst, failed)
}

// endOf closes the sink's half, unless the direction is silent: then nobody hears
// of it until the fault is over.
func (w *way) endOf(ctx context.Context, dst net.Conn, failed error) {
	for {
		fault, changed := w.look()
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
		_ = t.CloseWrite() // fails where the connection has
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
