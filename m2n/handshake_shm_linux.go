package m2n

import (
	"context"
	"fmt"
	"net"

	"golang.org/x/sys/unix"

	"github.com/tandem-moe/tandem/m2n/internal/shm"
	"github.com/tandem-moe/tandem/m2n/internal/wire"
)

// Two ends that are to share memory shake hands on a Unix connection, which stays as
// the lane:
//
//	dials                              listens
//	hello                      ──▶
//	                           ◀──     welcome, with descriptors
//	ready, with descriptors    ──▶
//	                           ◀──     ready
//
// The descriptors are those of the ring that the end receives from, of its endpoint's
// page of doorbells, and of the eventfd that wakes its endpoint.

// serveSHM accepts peers of this host, beside a TCP listener. Where it cannot, they
// come by TCP. The caller holds mu.
func (e *Endpoint) serveSHM(l net.Listener) {
	if _, ok := l.(*net.TCPListener); !ok || !e.sharesMemory() {
		return
	}
	host, err := net.ListenUnix("unix", shm.SocketName(l.Addr().String()))
	if err != nil {
		return
	}
	e.listeners = append(e.listeners, host)
	e.spawn(func() { e.acceptLoop(host, e.handleSHM) })
}

// sharesMemory reports whether messages can be received in shared memory.
func (e *Endpoint) sharesMemory() bool { return e.cfg.Alloc == nil || e.cfg.Adopt != nil }

// shmHandshake is a pair that is about to share memory: what this end offers, and what
// has come of the peer.
type shmHandshake struct {
	pair     *pair
	conn     *shm.Conn
	hs       *handshakeConn // over conn
	engine   *engine
	segment  *shm.Segment // of ring
	ring     *shm.Ring    // from which this end will receive
	doorbell int          // of this end's page, for the peer

	peer        greeting
	peerSegment *shm.Segment
	peerRing    *shm.Ring
	peerPage    *shm.PeerPage
	peerWake    int // eventfd
}

// newSHMHandshake makes this end's memory.
func newSHMHandshake(p *pair, conn *shm.Conn, hs *handshakeConn) (*shmHandshake, error) {
	eng, err := p.ep.startEngine()
	if err != nil {
		return nil, err
	}
	layout, err := p.ep.limits().layout()
	if err != nil {
		return nil, err
	}
	s, err := shm.NewSegment(layout.Bytes)
	if err != nil {
		return nil, err
	}
	h := &shmHandshake{pair: p, conn: conn, hs: hs, engine: eng, segment: s, ring: shm.NewRing(s.Mem, layout), peerWake: -1}
	if h.doorbell, err = eng.doorbells.Reserve(); err != nil {
		s.Close()
		return nil, err
	}
	return h, nil
}

// layout is that of the ring of a receiver with these limits.
func (l limits) layout() (shm.Layout, error) {
	return shm.NewLayout(l.slots, l.slotBytes, l.headerBytes)
}

// sendGreeting sends a greeting with this end's descriptors.
func (h *shmHandshake) sendGreeting(kind wire.Kind, g greeting) error {
	g.Doorbell = h.doorbell
	b, err := h.hs.encode(kind, g)
	if err != nil {
		return err
	}
	return h.conn.WriteWithFDs(b, h.segment.FD, h.engine.doorbells.FD(), h.engine.poller.WakeFD())
}

// readGreeting reads the peer's greeting and maps the memory that comes with it.
func (h *shmHandshake) readGreeting(kind wire.Kind) (err error) {
	if h.peer, err = h.hs.readGreeting(kind); err != nil {
		return err
	}
	ring, page, eventfd, err := h.conn.FDs()
	if err != nil {
		return err
	}
	h.peerWake = eventfd
	// An eventfd of ours is non-blocking already. The peer may have sent another
	// descriptor, which must not hold up a goroutine that posts.
	_ = unix.SetNonblock(eventfd, true)
	layout, err := h.peer.limits().layout()
	if err == nil {
		err = shm.CheckDoorbell(h.peer.Doorbell)
	}
	if err != nil {
		shm.CloseFDs([]int{ring, page})
		return err
	}
	if h.peerPage, err = shm.MapPage(page); err != nil {
		shm.CloseFDs([]int{ring})
		return err
	}
	if h.peerSegment, err = shm.MapSegment(ring, layout.Bytes); err != nil {
		return err
	}
	h.peerRing = shm.NewRing(h.peerSegment.Mem, layout)
	return nil
}

// newLink makes the link. All memory is the link's from here on, also where an error
// is returned.
func (h *shmHandshake) newLink() (*wireLink, error) {
	window := h.pair.ep.newWindow()
	region, err := h.pair.ep.adopt(h.ring.Bodies())
	if err != nil {
		h.releaseAll()
		return nil, err
	}
	window.region = region
	window.freeMemory = func() {
		if free := h.pair.ep.cfg.Free; free != nil && h.pair.ep.cfg.Adopt != nil {
			free(region)
		}
		h.segment.Close()
	}
	h.hs.conn = h.conn.UnixConn
	l, err := newWireLink(h.pair, viaSHM, window, []*handshakeConn{h.hs}, h.peer)
	if err != nil {
		h.releasePeer()
		return nil, err
	}
	t := newSHMTransport(l, h.ring, h.peerRing, h.peerPage.Doorbell(h.peer.Doorbell, h.peerWake), h.releasePeer)
	l.transport = t
	h.engine.doorbells.Handle(h.doorbell, t)
	return l, nil
}

// adopt makes a region of memory that is shared with a peer.
func (e *Endpoint) adopt(mem []byte) (*Region, error) {
	if e.cfg.Adopt == nil {
		return &Region{Bytes: mem}, nil
	}
	e.allocMu.Lock()
	defer e.allocMu.Unlock()
	return e.cfg.Adopt(mem)
}

// releasePeer unmaps the peer's memory and frees this end's doorbell.
func (h *shmHandshake) releasePeer() {
	h.engine.doorbells.Release(h.doorbell)
	if h.peerSegment != nil {
		h.peerSegment.Close()
	}
	if h.peerPage != nil {
		h.peerPage.Close()
	}
	if h.peerWake >= 0 {
		shm.CloseFDs([]int{h.peerWake})
	}
}

// releaseAll releases this end's ring too.
func (h *shmHandshake) releaseAll() {
	h.releasePeer()
	h.segment.Close()
}

// handleSHM shakes hands with a peer of this host that has connected.
func (e *Endpoint) handleSHM(conn net.Conn) {
	ctx, cancel := context.WithTimeout(e.ctx, e.cfg.DialTimeout*3/4)
	defer cancel()
	c := &shm.Conn{UnixConn: conn.(*net.UnixConn)}
	hs := newHandshakeConn(ctx, e, c, nil)
	if err := e.acceptSHM(ctx, hs, c); err != nil {
		hs.refuse(err)
		c.Close()
	}
}

func (e *Endpoint) acceptSHM(ctx context.Context, hs *handshakeConn, c *shm.Conn) error {
	if err := c.CheckUser(); err != nil {
		return err
	}
	theirs, err := hs.readGreeting(wire.Hello)
	if err != nil {
		return err
	}
	p, err := e.pairFor(ctx, theirs.pairID)
	if err != nil {
		return err
	}
	if err := p.awaitAccept(ctx); err != nil {
		return err
	}
	defer p.acceptOver()
	return p.acceptSHM(c, hs, theirs.pairID)
}

func (p *pair) acceptSHM(c *shm.Conn, hs *handshakeConn, id pairID) error {
	h, err := newSHMHandshake(p, c, hs)
	if err != nil {
		return err
	}
	mine := p.ep.greeting(id)
	err = firstError(
		func() error { return h.sendGreeting(wire.Welcome, mine) },
		func() error { return h.readGreeting(wire.Ready) },
	)
	if err != nil {
		h.releaseAll()
		return err
	}
	return h.raise(p.raiseAccepted, func() error { return hs.sendControl(wire.Ready, mine) })
}

// raise ends the handshake: the pair is up with the link, and the peer is told.
func (h *shmHandshake) raise(raise func(*wireLink, limits) error, confirm func() error) error {
	if err := h.hs.detach(); err != nil {
		h.releaseAll()
		return err
	}
	l, err := h.newLink()
	if err != nil {
		return err
	}
	if err := raise(l, h.peer.limits()); err != nil {
		l.abandon()
		return err
	}
	if err := confirm(); err != nil {
		h.pair.fail(fmt.Errorf("handshake: %w", err))
	}
	l.start()
	return nil
}

// dialSHM connects to a peer of this host, to share memory with it.
func (p *pair) dialSHM(ctx context.Context, addr string) error {
	if p.ep.cfg.Dial != nil {
		return &unavailableError{"Config.Dial says how peers are reached"}
	}
	if !p.ep.sharesMemory() {
		return &unavailableError{"its receive memory is a device's (Config.Adopt is nil)"}
	}
	c, err := shm.Dial(ctx, addr)
	if err != nil {
		return &unavailableError{err.Error()}
	}
	if err := p.dialSHMOn(ctx, c); err != nil {
		c.Close()
		return err
	}
	return nil
}

func (p *pair) dialSHMOn(ctx context.Context, c *shm.Conn) error {
	if err := c.CheckUser(); err != nil {
		return &unavailableError{err.Error()}
	}
	hs := newHandshakeConn(ctx, p.ep, c, nil)
	mine := p.ep.greeting(pairID{From: p.ep.cfg.ID, FromEpoch: p.ep.cfg.Epoch, To: p.id, ToEpoch: p.epoch})
	if err := hs.sendControl(wire.Hello, mine); err != nil {
		return err
	}
	h, err := newSHMHandshake(p, c, hs)
	if err != nil {
		return err
	}
	err = firstError(
		func() error { return h.readGreeting(wire.Welcome) },
		func() error { return h.sendGreeting(wire.Ready, mine) },
		func() error { _, err := hs.readGreeting(wire.Ready); return err },
	)
	if err != nil {
		h.releaseAll()
		return err
	}
	return h.raise(p.raiseDialled, func() error { return nil })
}
