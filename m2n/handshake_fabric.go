package m2n

import (
	"context"
	"fmt"

	"github.com/tandem-moe/tandem/m2n/internal/wire"
)

// Two ends that meet by a fabric do so on one TCP connection, which stays as the
// lane:
//
//	dials                                listens
//	hello: fabric, address      ──▶
//	                            ◀──     welcome: fabric, address, key
//	ready: fabric, address, key ──▶
//	                            ◀──     ready
//
// A welcome without a fabric says that there is none of that name; the connection
// ends with it.

// fabricGreeting is how the sender of a greeting is reached by its fabric.
type fabricGreeting struct {
	Name    string `json:"name"`
	Address []byte `json:"address"`
	Key     uint64 `json:"key,omitempty"`
}

// maxFabricAddress bounds an address, so that greetings fit into their frames.
const maxFabricAddress = wire.ControlBytes / 2

// check holds a peer's address to what this end would send: a fabric's library is
// given no more than that.
func (g *fabricGreeting) check() error {
	switch {
	case g == nil:
		return nil
	case g.Name == "" || len(g.Name) > maxID:
		return fmt.Errorf("the name of its fabric has %d bytes, want 1 to %d", len(g.Name), maxID)
	case len(g.Address) > maxFabricAddress:
		return fmt.Errorf("the address of its fabric has %d bytes, the limit is %d", len(g.Address), maxFabricAddress)
	}
	return nil
}

// checkFabric is a part of Config's check.
func checkFabric(f Fabric) error {
	if f == nil {
		return nil
	}
	if n := len(f.Address()); n > maxFabricAddress {
		return fmt.Errorf("m2n: the address of fabric %s has %d bytes, the limit is %d: let it use fewer devices", f.Name(), n, maxFabricAddress)
	}
	return nil
}

func (h *fabricHub) greeting(key uint64) *fabricGreeting {
	return &fabricGreeting{h.fabric.Name(), h.fabric.Address(), key}
}

// meetingHub returns the endpoint's hub, or why it has none.
func (e *Endpoint) fabricHub() (*fabricHub, error) {
	if e.cfg.Fabric == nil {
		return nil, &unavailableError{"this end has no fabric (Config.Fabric is nil)"}
	}
	g, err := e.startEngine()
	if err != nil {
		return nil, &unavailableError{err.Error()}
	}
	return g.hub, nil
}

// dialFabric meets a peer, and raises the pair with a connection by the fabric.
func (p *pair) dialFabric(ctx context.Context, addr string) error {
	hub, err := p.ep.fabricHub()
	if err != nil {
		return err
	}
	mine := p.ep.greeting(pairID{From: p.ep.cfg.ID, FromEpoch: p.ep.cfg.Epoch, To: p.id, ToEpoch: p.epoch})
	mine.Fabric = hub.greeting(0)
	s, err := p.ep.dialLane(ctx, addr, mine)
	if err != nil {
		return err
	}
	if err := p.dialFabricOn(hub, s, mine); err != nil {
		s.conn.Close()
		return err
	}
	return nil
}

func (p *pair) dialFabricOn(hub *fabricHub, s *handshakeConn, mine greeting) error {
	theirs, err := s.readGreeting(wire.Welcome)
	if err != nil {
		return err
	}
	if theirs.Fabric == nil {
		return &unavailableError{fmt.Sprintf("the peer has no fabric %q", mine.Fabric.Name)}
	}
	c, err := hub.open(p)
	if err != nil {
		return err
	}
	mine.Fabric.Key = c.conn.Key()
	err = firstError(
		func() error { return c.connect(theirs.Fabric) },
		func() error { return c.makeLink(s, theirs) },
		func() error { return s.sendControl(wire.Ready, mine) },
		func() error { _, err := s.readGreeting(wire.Ready); return err },
		s.detach,
		func() error { return p.raiseDialled(c.link, theirs.limits()) },
	)
	if err != nil {
		c.abandon()
		return err
	}
	c.start()
	return nil
}

func (c *fabricTransport) connect(to *fabricGreeting) error {
	if err := c.conn.Connect(to.Address, to.Key); err != nil {
		return fmt.Errorf("fabric %s: %w", to.Name, err)
	}
	return nil
}

// receiveFabric answers a peer that has dialled and offers a fabric.
func (p *pair) acceptFabric(s *handshakeConn, theirs greeting) error {
	hub, err := p.ep.fabricHub()
	if err != nil || hub.fabric.Name() != theirs.Fabric.Name {
		return p.declineFabric(s, theirs)
	}
	c, err := hub.open(p)
	if err != nil {
		return err
	}
	mine := p.ep.greeting(theirs.pairID)
	mine.Fabric = hub.greeting(c.conn.Key())
	err = firstError(
		func() error { return s.sendControl(wire.Welcome, mine) },
		func() error { return c.readReady(s) },
		s.detach,
		func() error { return p.raiseAccepted(c.link, theirs.limits()) },
	)
	if err != nil {
		c.abandon()
		return err
	}
	if err := s.sendControl(wire.Ready, mine); err != nil {
		p.fail(fmt.Errorf("handshake: %w", err))
	}
	c.start()
	return nil
}

// hearReady hears the key of the end that dials, and connects.
func (c *fabricTransport) readReady(s *handshakeConn) error {
	theirs, err := s.readGreeting(wire.Ready)
	if err != nil {
		return err
	}
	if theirs.Fabric == nil {
		return fmt.Errorf("%w: greeting: it has no fabric", ErrBadFrame)
	}
	if err := c.connect(theirs.Fabric); err != nil {
		return err
	}
	return c.makeLink(s, theirs)
}

// declineFabric lets the peer come otherwise.
func (p *pair) declineFabric(s *handshakeConn, theirs greeting) error {
	defer s.conn.Close()
	return s.sendControl(wire.Welcome, p.ep.greeting(theirs.pairID))
}
