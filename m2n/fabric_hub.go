package m2n

import (
	"context"
	"fmt"
	"sync"
	"time"

	"github.com/tandem-moe/tandem/m2n/internal/poll"
)

// fabricHub drives an endpoint's fabric, and hands the fabric's events to the
// transports of the pairs. The progress engine calls it as it polls sockets and
// doorbells. A nil hub does nothing: it is that of an endpoint without a fabric.
type fabricHub struct {
	fabric Fabric

	progressMu sync.Mutex // held while Fabric.Progress runs and its events are handled
	events     [64]FabricEvent

	mu   sync.Mutex
	live map[*fabricTransport]bool // those whose FabricClosed has not come
}

// newFabricHub returns the hub of a fabric, which may be nil, and has the poller watch
// the fabric's descriptor.
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

// Readable is called by the driver when the fabric's descriptor is readable.
func (h *fabricHub) Readable() { h.progress() }

// progress has the fabric work once, and returns how many events there were.
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
		*ev = FabricEvent{} // so that its header can be collected
	}
	return n
}

// prepareSleep has the fabric's descriptor wake the poller, and reports whether there is
// work before that: then the driver must not sleep. A fabric that cannot be armed has
// failed, and the ends of its connections say so.
func (h *fabricHub) prepareSleep() (busy bool) {
	if h == nil {
		return false
	}
	if h.fabric.EventFD() < 0 {
		return true
	}
	armed, err := h.fabric.Arm()
	return !armed && err == nil
}

func (h *fabricHub) add(t *fabricTransport) {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.live[t] = true
}

func (h *fabricHub) remove(t *fabricTransport) {
	h.mu.Lock()
	defer h.mu.Unlock()
	delete(h.live, t)
}

func (h *fabricHub) all() []*fabricTransport {
	h.mu.Lock()
	defer h.mu.Unlock()
	var all []*fabricTransport
	for t := range h.live {
		all = append(all, t)
	}
	return all
}

// hub returns the endpoint's hub, nil before its first connection.
func (e *Endpoint) hub() *fabricHub {
	if g := e.engine.Load(); g != nil {
		return g.hub
	}
	return nil
}

// progressUntil has the fabric work until done returns true or stop is closed.
func (h *fabricHub) progressUntil(stop <-chan struct{}, done func() bool) {
	tick := time.NewTicker(time.Millisecond)
	defer tick.Stop()
	for !done() {
		if h.progress() > 0 {
			continue
		}
		select {
		case <-tick.C:
		case <-stop:
			return
		}
	}
}

// closeFabric closes the connections, gives the fabric a part of PeerTimeout to report
// that they are closed, and closes it. After that no message is under way.
func (e *Endpoint) closeFabric(h *fabricHub) error {
	ctx, cancel := context.WithTimeout(context.Background(), e.cfg.PeerTimeout/4)
	defer cancel()
	if h != nil {
		for _, t := range h.all() {
			t.close()
		}
		h.progressUntil(ctx.Done(), func() bool { return len(h.all()) == 0 })
	}
	err := e.cfg.Fabric.Close(ctx)
	if h != nil {
		h.finishAll()
	}
	return err
}

// finishAll finishes connections whose FabricClosed has not come, and cannot come any
// more.
func (h *fabricHub) finishAll() {
	h.progressMu.Lock()
	defer h.progressMu.Unlock()
	for _, t := range h.all() {
		t.finish()
	}
}
