package m2n

import (
	"context"
	"fmt"
	"sync"
	"time"

	"github.com/tandem-moe/tandem/m2n/internal/poll"
)

// fabricHub is what an endpoint has of its fabric: it lets the fabric work, and
// hands the events to the carriers. The engine's driver looks here as it looks at
// sockets and boards. A nil hub is one without a fabric.
type fabricHub struct {
	fabric Fabric

	progressMu sync.Mutex // held by who lets the fabric work
	events     [64]FabricEvent

	mu   sync.Mutex
	live map[*fabricTransport]bool // that are not closed
}

// newFabricHub returns the hub of a fabric, which may be nil, whose descriptor the
// gate watches.
func newFabricHub(f Fabric, p *poll.Poller) (*fabricHub, error) {
	if f == nil {
		return nil, nil
	}
	h := &fabricHub{fabric: f, live: make(map[*fabricTransport]bool)}
	if fd := f.EventFD(); fd >= 0 {
		if err := p.Add(fd, h); err != nil {
			return nil, fmt.Errorf("fabric %s: %w", f.Name(), err)
		}
	}
	return h, nil
}

// Readable is called by the driver when the descriptor is readable.
func (h *fabricHub) Readable() { h.progress() }

// sweep lets the fabric work once, and returns how many events there were.
func (h *fabricHub) progress() int {
	if h == nil {
		return 0
	}
	h.progressMu.Lock()
	defer h.progressMu.Unlock()
	n := h.fabric.Progress(h.events[:])
	for i := range h.events[:n] {
		ev := &h.events[i]
		ev.Owner.(*fabricTransport).handle(ev)
		*ev = FabricEvent{} // its memory is not the hub's to keep
	}
	return n
}

// sleep says that the driver is going to wait in the gate, and tells whether the
// fabric has work before that. One that cannot be armed has failed: its
// connections' ends tell.
func (h *fabricHub) prepareSleep() bool {
	if h == nil {
		return false
	}
	if h.fabric.EventFD() < 0 {
		return true
	}
	armed, err := h.fabric.Arm()
	return !armed && err == nil
}

func (h *fabricHub) add(c *fabricTransport) {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.live[c] = true
}

func (h *fabricHub) remove(c *fabricTransport) {
	h.mu.Lock()
	defer h.mu.Unlock()
	delete(h.live, c)
}

func (h *fabricHub) all() []*fabricTransport {
	h.mu.Lock()
	defer h.mu.Unlock()
	var all []*fabricTransport
	for c := range h.live {
		all = append(all, c)
	}
	return all
}

// hub returns the endpoint's, if it has a connection.
func (e *Endpoint) hub() *fabricHub {
	if g := e.engine.Load(); g != nil {
		return g.hub
	}
	return nil
}

// pump lets the fabric work until over is closed or done.
func (h *fabricHub) progressUntil(over <-chan struct{}, done func() bool) {
	tick := time.NewTicker(time.Millisecond)
	defer tick.Stop()
	for !done() {
		if h.progress() > 0 {
			continue
		}
		select {
		case <-tick.C:
		case <-over:
			return
		}
	}
}

// closeFabric closes the connections, gives the fabric some time to say that they
// are, and closes it. After that nothing is under way.
func (e *Endpoint) closeFabric(h *fabricHub) error {
	ctx, cancel := context.WithTimeout(context.Background(), e.cfg.PeerTimeout/4)
	defer cancel()
	if h != nil {
		for _, c := range h.all() {
			c.close()
		}
		h.progressUntil(ctx.Done(), func() bool { return len(h.all()) == 0 })
	}
	err := e.cfg.Fabric.Close(ctx)
	if h != nil {
		h.abortAll()
	}
	return err
}

// endAll is for connections whose last event has not come, when it cannot come any
// more.
func (h *fabricHub) abortAll() {
	h.progressMu.Lock()
	defer h.progressMu.Unlock()
	for _, c := range h.all() {
		c.closed()
	}
}
