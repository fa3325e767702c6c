package m2n

import (
	"context"
	"fmt"

	"github.com/tandem-moe/tandem/m2n/internal/wire"
)

// Two ends whose messages are to go by a fabric shake hands on one TCP connection,
// which stays as the lane:
//
//	dials                                listens
//	hello: fabric, address      ──▶
//	                            ◀──     welcome: fabric, address, key
//	ready: fabric, address, key ──▶
//	                            ◀──     ready
//
// A welcome without a fabric says that the end that listens has none of that name, and
// ends the connection.

// fabricGreeting is how the fabric of a greeting's sender is reached.
type fabricGreeting struct {
	Name    string `json:"name"`
	Address []byte `json:"address"`
	Key     uint64 `json:"key,omitempty"`
}

// maxFabricAddress bounds an address, so that greetings fit into their frames.
const maxFabricAddress = wire.ControlBytes / 2

// check holds a peer's address to the limits of this end's own, so that a fabric's
// library is given no more than that.
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

// checkFabric checks Config.Fabric.
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

// fabricHub returns the hub of the endpoint's fabric, or why there is none.
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

// dialFabric connects the pair by the fabric.
func (p *pair) dialFabric(ctx context.Context, addr string) error {
	hub, err := p.ep.fabricHub()
	if err != nil {
		return err
	}
	mine := p.ep.greeting(pairID{From: p.ep.cfg.ID, FromEpoch: p.ep.cfg.Epoch, To: p.id, ToEpoch: p.epoch})
	mine.Fabric = hub.greeting(0)
	c, err := p.ep.dialLane(ctx, addr, mine)
	if err != nil {
		return err
	}
	if err := p.dialFabricOn(hub, c, mine); err != nil {
		c.conn.Close()
		return err
	}
	return nil
}

func (p *pair) dialFabricOn(hub *fabricHub, c *handshakeConn, mine greeting) error {
	theirs, err := c.readGreeting(wire.Welcome)
	if err != nil {
		return err
	}
	if theirs.Fabric == nil {
		return &unavailableError{fmt.Sprintf("the peer has no fabric %q", mine.Fabric.Name)}
	}
	t, err := hub.open(p)
	if err != nil {
		return err
	}
	mine.Fabric.Key = t.conn.Key()
	err = firstError(
		func() error { return t.connect(theirs.Fabric) },
		func() error { return t.makeLink(c, theirs) },
		func() error { return c.sendControl(wire.Ready, mine) },
		func() error { _, err := c.readGreeting(wire.Ready); return err },
		c.detach,
		func() error { return p.raiseDialled(t.link, theirs.limits()) },
	)
	if err != nil {
		t.abandon()
		return err
	}
	t.start()
	return nil
}

func (t *fabricTransport) connect(to *fabricGreeting) error {
	if err := t.conn.Connect(to.Address, to.Key); err != nil {
		return fmt.Errorf("fabric %s: %w", to.Name, err)
	}
	return nil
}

// acceptFabric shakes hands with a peer that has dialled and offers a fabric.
func (p *pair) acceptFabric(c *handshakeConn, theirs greeting) error {
	hub, err := p.ep.fabricHub()
	if err != nil || hub.fabric.Name() != theirs.Fabric.Name {
		return p.declineFabric(c, theirs)
	}
	t, err := hub.open(p)
	if err != nil {
		return err
	}
	mine := p.ep.greeting(theirs.pairID)
	mine.Fabric = hub.greeting(t.conn.Key())
	err = firstError(
		func() error { return c.sendControl(wire.Welcome, mine) },
		func() error { return t.readReady(c) },
		c.detach,
		func() error { return p.raiseAccepted(t.link, theirs.limits()) },
	)
	if err != nil {
		t.abandon()
		return err
	}
	if err := c.sendControl(wire.Ready, mine); err != nil {
		p.fail(fmt.Errorf("handshake: %w", err))
	}
	t.start()
	return nil
}

// readReady reads the key of the end that dials, and connects to it.
func (t *fabricTransport) readReady(c *handshakeConn) error {
	theirs, err := c.readGreeting(wire.Ready)
	if err != nil {
		return err
	}
	if theirs.Fabric == nil {
		return fmt.Errorf("%w: greeting: it has no fabric", ErrBadFrame)
	}
	if err := t.connect(theirs.Fabric); err != nil {
		return err
	}
	return t.makeLink(c, theirs)
}

// declineFabric tells the peer that there is no such fabric here, so that it tries the
// next transport.
func (p *pair) declineFabric(c *handshakeConn, theirs greeting) error {
	defer c.conn.Close()
	return c.sendControl(wire.Welcome, p.ep.greeting(theirs.pairID))
}
