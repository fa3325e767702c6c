package m2n

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"time"
)

// Network is a directory by which the endpoints of one process find each other.
type Network struct {
	mu      sync.Mutex
	names   map[string]*Endpoint
	changed broadcast
}

// NewNetwork returns a network without endpoints.
func NewNetwork() *Network { return &Network{names: make(map[string]*Endpoint)} }

func (n *Network) bind(name string, e *Endpoint) error {
	n.mu.Lock()
	defer n.mu.Unlock()
	if other := n.names[name]; other != nil {
		return fmt.Errorf("m2n: inproc:%s is taken by endpoint %q (epoch %d)", name, other.cfg.ID, other.cfg.Epoch)
	}
	n.names[name] = e
	n.changed.notify()
	return nil
}

func (n *Network) unbind(name string, e *Endpoint) {
	n.mu.Lock()
	defer n.mu.Unlock()
	if n.names[name] == e {
		delete(n.names, name)
	}
}

// find returns the endpoint of that name. Where there is none yet, it waits until ctx
// ends.
func (n *Network) find(ctx context.Context, name string) (*Endpoint, error) {
	for {
		n.mu.Lock()
		e, changed := n.names[name], n.changed.next()
		n.mu.Unlock()
		if e != nil {
			return e, nil
		}
		select {
		case <-changed:
		case <-ctx.Done():
			return nil, fmt.Errorf("no endpoint listens there: %w", ctx.Err())
		}
	}
}

func (e *Endpoint) bindInproc(name string) error {
	if e.cfg.Network == nil {
		return fmt.Errorf("m2n: listening at inproc:%s: Config.Network is nil", name)
	}
	e.mu.Lock()
	defer e.mu.Unlock()
	if e.closing {
		return ErrClosed
	}
	if err := e.cfg.Network.bind(name, e); err != nil {
		return err
	}
	e.inprocNames = append(e.inprocNames, name)
	return nil
}

func (p *pair) dialInproc(ctx context.Context, name string) error {
	e := p.ep
	if e.cfg.Network == nil {
		return &refusal{Reason: "Config.Network is nil"}
	}
	remote, err := e.cfg.Network.find(ctx, name)
	if err != nil {
		return err
	}
	q, err := remote.pairFor(ctx, pairID{From: e.cfg.ID, FromEpoch: e.cfg.Epoch, To: p.id, ToEpoch: p.epoch})
	if err != nil {
		return err
	}
	if err := raiseBoth(p, q); err != nil {
		return err
	}
	p.startSending()
	q.startSending()
	return nil
}

// raiseBoth makes both ends of a pair up, under both locks. Where both ends dial, the
// first to come here makes them up for both.
func raiseBoth(p, q *pair) error {
	first, second := p, q
	if q.ep.cfg.ID < p.ep.cfg.ID {
		first, second = q, p
	}
	first.mu.Lock()
	defer first.mu.Unlock()
	second.mu.Lock()
	defer second.mu.Unlock()
	switch {
	case p.phase == down:
		return p.cause
	case p.phase == up:
		return nil
	case q.phase == down || q.phase == up:
		_, err := q.mayAccept()
		return err
	}
	p.markUp(&inprocLink{here: p, there: q}, q.ep.limits())
	q.markUp(&inprocLink{here: q, there: p}, p.ep.limits())
	return nil
}

// inprocLink hands messages over without copying: the receiver reads the sender's spans,
// and its release is what makes a message Sent.
type inprocLink struct{ here, there *pair }

func (l *inprocLink) transportKind() int { return viaInproc }

// flush delivers on the caller's goroutine: the only hand-over is the one to the
// receiver's Poll.
func (l *inprocLink) flush() {
	l.here.mu.Lock()
	defer l.here.mu.Unlock()
	for o := l.here.dequeue(); o != nil; o = l.here.dequeue() {
		l.deliver(o)
	}
}

func (l *inprocLink) deliver(o *outgoing) {
	n := len(o.header) + o.bytes
	l.here.counters.sent[viaInproc].add(n)
	l.there.counters.received[viaInproc].add(n)
	accepted := l.there.ep.completions.push(Completion{
		Kind: Received, Peer: l.there.id, Header: o.header, Body: o.body,
		Posted: o.posted, Arrived: o.dequeued, pair: l.there, held: o,
	})
	if !accepted { // the receiver is closed
		o.released.Store(true)
		l.here.sent(o, ErrClosed)
	}
}

// check does nothing: an end in this process cannot be silent.
func (l *inprocLink) check(time.Duration) {}

func (l *inprocLink) interval() time.Duration { return time.Hour }

// end takes the other end down too.
func (l *inprocLink) end(cause error) { l.there.fail(goodbyeOf(cause).asCause()) }

// release is the receiver's: the sender gets its spans and its credit back.
func (o *outgoing) release() {
	if !o.released.Swap(true) {
		o.returnSpans(nil)
	}
}

// drop is release for a message that the receiver has not seen.
func (o *outgoing) drop() {
	if !o.released.Swap(true) {
		o.returnSpans(errors.New("the receiver closed or replaced the pair before it looked at the message"))
	}
}

func (o *outgoing) returnSpans(err error) {
	p := o.pair
	p.mu.Lock()
	p.counters.noteSent(o.posted, o.dequeued)
	p.sent(o, err)
	p.send.credit++
	p.mu.Unlock()
	p.flush()
}
