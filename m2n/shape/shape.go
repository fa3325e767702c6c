// Package shape owns a network in memory: hosts whose connections are as fast,
// as slow and as broken as a test or a simulation wants. A host has a NIC with a
// rate in each direction; a path between two hosts has a latency; hosts can be
// cut off, paths stalled, connections reset, and the faults healed. The package may not
// know what the bytes mean, nor which program sends them.
//
//	n, err := shape.New(shape.Config{Latency: 20 * time.Microsecond})
//	n.Host("a", shape.NIC{Egress: 1e9, Ingress: 1e9}) // bytes per second
//	n.Host("b", shape.NIC{Egress: 1e9, Ingress: 1e9})
//	l, err := n.Listener("b")                         // for Endpoint.Serve
//	conn, err := n.Dial("a")(ctx, l.Addr().String())  // for m2n.Config.Dial
//
// # The model
//
//	Write ─▶ send buffer ─▶ egress NIC ─── latency ───▶ ingress NIC ─▶ Read
//	         of each flow   a packet of                 a packet of
//	                        each flow in turn           each flow in turn
//
// A connection is two flows, one each way. Nothing is dropped for want of room: a full
// queue holds back the sender, down to Write.
//
//   - Each NIC serves in turn, one packet each, the flows that have packets for it. So
//     flows that always have something to send get rates by max-min fairness: equal
//     where a NIC is shared, and what one flow cannot use goes to the others.
//   - A packet leaves only once there is room for it in the receiving NIC's queue,
//     which the flows share equally. A flow that waits for room holds up no other
//     flow of its host (virtual output queues, as in lossless fabrics).
//   - The receiving NIC forwards a packet while it arrives (cut-through): n bytes
//     over an idle path arrive n ÷ the lower rate + latency after they left.
//   - A flow has at most Window bytes sent and not yet read. The sender knows at once
//     what the reader has read: unlike TCP's, an acknowledgement takes no time and no
//     bandwidth.
//
// All times are those of a virtual clock: each due time is computed from earlier due
// times. So a process that wakes late delivers late, and the rate is still exact.
// The core (model.go, nic.go) is pure: events with times in, actions out.
package shape

import (
	"context"
	"errors"
	"fmt"
	"net"
	"sync"
	"syscall"
	"time"
)

// Config is what all hosts of a network share. The zero value is a network
// without latency.
type Config struct {
	// Latency is the one-way latency of all paths that Network.Latency does not set.
	Latency time.Duration
	// Packet is how many bytes a NIC sends of one flow, at most, before it goes on to
	// the next flow. Default 64 KiB, as with segmentation offload: at 1 GB/s a small
	// message waits up to 66 µs per competing flow and NIC.
	Packet int
	// Queue bounds the bytes that are on their way to a host's NIC or wait there.
	// The flows that have bytes there share the queue equally, but each may always have
	// one packet. When a flow is added, flows with more than their new share wait until
	// they have less. Default 1 MiB. A queue smaller than latency × rate limits the
	// throughput: 1 MiB is 1 GB/s over 1 ms.
	Queue int
	// SendBuffer bounds the bytes that are written to a flow and have not left its host;
	// Window bounds those that have left the host and are not read. Default 4 MiB each:
	// a reader may come a few milliseconds late at 1 GB/s without slowing the flow down.
	SendBuffer, Window int
	// Bubble has the network use Go's timers only, so that it can be used in a
	// testing/synctest bubble, where they are exact. Elsewhere Go's timers are up to a
	// millisecond late, and a network uses the kernel's where there are such.
	Bubble bool
}

func (c Config) complete() (Config, error) {
	setDefault(&c.Packet, 64<<10)
	setDefault(&c.Queue, max(1<<20, c.Packet))
	setDefault(&c.SendBuffer, 4<<20)
	setDefault(&c.Window, max(4<<20, c.Packet))
	const most = 1 << 30
	for _, f := range []struct {
		name               string
		value, least, most int
	}{
		{"Latency", int(c.Latency), 0, int(time.Hour)},
		{"Packet", c.Packet, 1, most},
		{"Queue", c.Queue, c.Packet, most}, // a packet must fit
		{"SendBuffer", c.SendBuffer, 1, most},
		{"Window", c.Window, c.Packet, most}, // a packet must fit
	} {
		if f.value < f.least || f.value > f.most {
			return c, fmt.Errorf("shape: Config.%s is %d, want %d to %d", f.name, f.value, f.least, f.most)
		}
	}
	return c, nil
}

func setDefault(v *int, def int) {
	if *v == 0 {
		*v = def
	}
}

// NIC is how fast a host sends and receives, in bytes per second; 0 is without a
// limit.
type NIC struct {
	Egress, Ingress int64
}

// maxRate bounds a NIC's rate, in bytes per second, so that no time overflows.
const maxRate = 1 << 40

// Network is some hosts and the connections between them. Any goroutine may call all
// methods at any time.
type Network struct {
	began   time.Time
	quantum time.Duration
	alarm   alarm
	paced   sync.WaitGroup

	mu        sync.Mutex
	model     *model
	hosts     map[string]*host
	listeners map[string]*listener // by address
	conns     map[*conn]struct{}   // not closed
	ports     int                  // how many were given out
	woken     time.Duration        // when the pacer was last awake
	armed     time.Duration        // when the pacer will wake, 0 where the alarm is not set
	closed    bool
	over      context.Context // ends with Close
	end       context.CancelFunc
}

// New makes a network without hosts. The caller closes it.
func New(cfg Config) (*Network, error) {
	cfg, err := cfg.complete()
	if err != nil {
		return nil, err
	}
	n := &Network{
		began: time.Now(), model: newModel(cfg), hosts: make(map[string]*host),
		listeners: make(map[string]*listener), conns: make(map[*conn]struct{}),
	}
	if !cfg.Bubble {
		n.quantum = quantum
	}
	if n.alarm, err = newAlarm(cfg.Bubble); err != nil {
		return nil, fmt.Errorf("shape: making a timer: %w", err)
	}
	n.over, n.end = context.WithCancel(context.Background())
	n.paced.Go(n.pace)
	return n, nil
}

// Host adds a host, or changes the NIC of a host that exists. A packet that is being sent
// goes on at the old rate.
func (n *Network) Host(name string, nic NIC) error {
	if name == "" || nic.Egress < 0 || nic.Ingress < 0 || nic.Egress > maxRate || nic.Ingress > maxRate {
		return fmt.Errorf("shape: host %q with a NIC of %+v: want a name, and rates from 0 to %d B/s", name, nic, int64(maxRate))
	}
	n.do(func() {
		h := n.hosts[name]
		if h == nil {
			h = n.model.host(name)
			n.hosts[name] = h
		}
		h.egress.setRate(nic.Egress)
		h.ingress.setRate(nic.Ingress)
	})
	return nil
}

// Latency sets how long bytes travel between two hosts, in both directions. After a
// change no byte overtakes an earlier one of its flow.
func (n *Network) Latency(a, b string, d time.Duration) error {
	if d < 0 || d > time.Hour {
		return fmt.Errorf("shape: a latency of %v between %q and %q: want 0 to 1 h", d, a, b)
	}
	return n.between(a, b, func(p, back *path) { p.latency, back.latency = d, d })
}

// Cut makes a host silent: bytes from and to the host vanish on the way, and neither end
// gets an error. Connections that lost bytes stay silent after Heal, since a stream has
// no gaps; those that lost none go on.
func (n *Network) Cut(name string) error {
	return n.at(name, func(h *host) { h.cut = true })
}

// Stall holds back all bytes that leave one host for another, and none in the other
// direction. No byte is lost; bytes that are under way arrive.
func (n *Network) Stall(from, to string) error {
	return n.between(from, to, func(p, _ *path) { p.stalled = true })
}

// Heal ends the cut of a host, and the stalls of all its paths.
func (n *Network) Heal(name string) error {
	return n.at(name, func(h *host) { n.model.heal(h) })
}

// Reset ends all connections between two hosts, at once and at both ends, with
// ECONNRESET.
func (n *Network) Reset(a, b string) error {
	return n.between(a, b, func(p, back *path) {
		for c := range n.conns {
			if c.out.flow.path == p || c.out.flow.path == back {
				n.fail(c, syscall.ECONNRESET)
			}
		}
	})
}

// Carried counts the bytes that a host's NIC has sent and received. Bytes that
// vanished have been sent and not received.
func (n *Network) Carried(name string) (sent, received int64, err error) {
	err = n.at(name, func(h *host) { sent, received = h.egress.carried, h.ingress.carried })
	return sent, received, err
}

// Close ends the network: listeners and connections are closed. It returns when
// its goroutine has ended.
func (n *Network) Close() error {
	n.mu.Lock()
	if n.closed {
		n.mu.Unlock()
		return nil
	}
	n.closed = true
	n.end()
	for _, l := range n.listeners {
		l.shut() //nolint:errcheck // it was open
	}
	for c := range n.conns {
		n.fail(c, net.ErrClosed)
	}
	n.mu.Unlock()
	err := n.alarm.close()
	n.paced.Wait()
	return err
}

// at calls f with a host, which must exist.
func (n *Network) at(name string, do func(*host)) error {
	err := error(nil)
	n.do(func() {
		h := n.hosts[name]
		if h == nil {
			err = unknownHost(name)
			return
		}
		do(h)
	})
	return err
}

func unknownHost(name string) error { return fmt.Errorf("shape: there is no host %q", name) }

// between calls f with the two paths between two hosts, which must exist.
func (n *Network) between(a, b string, do func(there, back *path)) error {
	unknown := error(nil)
	err := n.at(a, func(from *host) {
		to := n.hosts[b]
		if to == nil {
			unknown = unknownHost(b)
			return
		}
		do(n.model.path(from, to), n.model.path(to, from))
	})
	return errors.Join(err, unknown)
}

// do runs f at the present time, after everything that is due before, and then
// everything that f has made due.
func (n *Network) do(f func()) {
	n.mu.Lock()
	defer n.mu.Unlock()
	n.turn()
	f()
	n.turn()
	n.arm()
}

// turn has the model catch up with the clock. The caller holds mu.
func (n *Network) turn() {
	for _, a := range n.model.advance(time.Since(n.began)) {
		n.act(a)
	}
}

// quantum is the least time between two wake-ups of the pacer, outside of bubbles: things
// due between two wake-ups are done at the second. So a busy network costs at most 20,000
// wake-ups per second, and delivers up to a quantum late.
const quantum = 50 * time.Microsecond

// pace is the pacer: the goroutine that does things when they are due.
func (n *Network) pace() {
	for n.alarm.wait() {
		n.mu.Lock()
		n.turn()
		n.woken, n.armed = time.Since(n.began), 0
		n.arm()
		n.mu.Unlock()
	}
}

// arm sets the alarm to the next due time, unless the alarm is set to an earlier one. The
// caller holds mu.
func (n *Network) arm() {
	due, ok := n.model.next()
	if !ok {
		return
	}
	due = max(due, n.woken+n.quantum)
	if n.armed != 0 && n.armed <= due {
		return
	}
	n.armed = due
	n.alarm.set(due - time.Since(n.began))
}
