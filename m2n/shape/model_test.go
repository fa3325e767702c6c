package shape

import (
	"fmt"
	"math"
	"slices"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"pgregory.net/rapid"
)

// trial is a model whose arriving bytes are read at once, and what it did.
type trial struct {
	*model
	hosts []*host
	flows []*flow
	moved map[*flow]int // bytes that arrived
	hurt  func(format string, args ...any)
}

func newTrial(t require.TestingT, cfg Config, hurt func(string, ...any)) *trial {
	cfg, err := cfg.complete()
	require.NoError(t, err)
	return &trial{model: newModel(cfg), moved: map[*flow]int{}, hurt: hurt}
}

func (r *trial) addHost(egress, ingress int64) *host {
	h := r.model.host(fmt.Sprint(len(r.hosts)))
	h.egress.rate, h.ingress.rate = egress, ingress
	r.hosts = append(r.hosts, h)
	return h
}

func (r *trial) addFlow(from, to *host) *flow {
	f := r.model.flow(r.path(from, to), nil)
	r.flows = append(r.flows, f)
	return f
}

// step does what is due next, and holds what always holds; false where nothing
// is.
func (r *trial) step() bool {
	due, ok := r.next()
	if !ok {
		return false
	}
	for _, a := range slices.Clone(r.advance(due)) {
		if a.kind == arrived {
			r.moved[a.flow] += a.bytes
			r.read(a.flow, a.bytes)
		}
	}
	for _, h := range r.hosts {
		if queued, most := r.queued(h), r.mostQueued(h.inbound); queued > most {
			r.hurt("at %v %d bytes of %d flows are in the queue of host %s, want at most %d", r.now, queued, h.inbound, h.name, most)
		}
		r.requireRate(h.name+"'s egress", &h.egress)
		r.requireRate(h.name+"'s ingress", &h.ingress)
	}
	for _, f := range r.flows {
		if f.unread < 0 || f.unread > r.cfg.Window {
			r.hurt("at %v %d bytes are unread, the window is %d", r.now, f.unread, r.cfg.Window)
		}
	}
	return true
}

// queued are the bytes that are in a host's queue, or on their way to it.
func (r *trial) queued(h *host) (bytes int) {
	for _, f := range r.flows {
		if f.path.to == h {
			bytes += f.queued
		}
	}
	return bytes
}

// mostQueued is what n flows may have in a queue. The k-th that came had a k-th of
// it at most, or one packet, when it last sent.
func (r *trial) mostQueued(n int) (bytes int) {
	for k := range n {
		bytes += max(r.cfg.Queue/(k+1), r.cfg.Packet)
	}
	return bytes
}

// requireRate: a NIC has carried no more than its rate since the beginning. What
// it has carried is counted at the end of a packet, so there is no slack but a
// nanosecond.
func (r *trial) requireRate(name string, n *nic) {
	if n.rate == 0 {
		return
	}
	if most := float64(n.rate) * (r.now + 1).Seconds(); float64(n.carried) > most+1e-6 {
		r.hurt("%s has carried %d bytes in %v at %d B/s", name, n.carried, r.now, n.rate)
	}
}

// drawRate is from slow to fast, or without a limit.
func drawRate(t *rapid.T, name string) int64 {
	if rapid.IntRange(0, 9).Draw(t, name+" has a limit") == 0 {
		return 0
	}
	return int64(math.Pow(10, rapid.Float64Range(3, 10).Draw(t, name+", log10")))
}

// TestTransferTime: size ÷ rate + latency, whatever the packet and the pieces in
// which it was written.
func TestTransferTime(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		latency := time.Duration(rapid.IntRange(0, 1e9).Draw(t, "latency"))
		size := rapid.IntRange(1, 1e6).Draw(t, "size")
		r := newTrial(t, Config{Latency: latency, Packet: rapid.IntRange(1000, 100_000).Draw(t, "packet")}, t.Fatalf)
		out, in := drawRate(t, "egress"), drawRate(t, "ingress")
		f := r.addFlow(r.addHost(out, 0), r.addHost(0, in))
		for rest := size; rest > 0; {
			n := rapid.IntRange(1, rest).Draw(t, "piece")
			r.write(f, n)
			rest -= n
		}
		for r.step() {
		}
		require.Equal(t, size, r.moved[f])
		want := latency.Seconds()
		if out > 0 || in > 0 {
			want += float64(size) / slower(out, in)
		}
		require.InDelta(t, want, r.now.Seconds(), 2e-9+want*1e-12)
	})
}

// slower is the lower of two rates, of which one is a limit.
func slower(a, b int64) float64 {
	if a == 0 || b > 0 && b < a {
		return float64(b)
	}
	return float64(a)
}

// TestSharesAreEqual within one packet at all times, of a sender with several
// flows and of a receiver with several senders.
func TestSharesAreEqual(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		packet := rapid.IntRange(1, 5000).Draw(t, "packet")
		flows := rapid.IntRange(2, 12).Draw(t, "flows")
		r := newTrial(t, Config{Packet: packet, Queue: packet * rapid.IntRange(flows, 100).Draw(t, "queue")}, t.Fatalf)
		incast := rapid.Bool().Draw(t, "incast")
		hub := r.addHost(1e6, 1e6)
		for range flows {
			if spoke := r.addHost(1e6, 1e6); incast {
				r.addFlow(spoke, hub)
			} else {
				r.addFlow(hub, spoke)
			}
		}
		const packets = 30
		for _, f := range r.flows {
			r.write(f, packets*packet)
		}
		for r.step() {
			least, most := math.MaxInt, 0
			for _, f := range r.flows {
				least, most = min(least, r.moved[f]), max(most, r.moved[f])
			}
			if most-least > packet {
				t.Fatalf("at %v one flow has moved %d bytes and another %d; a packet is %d", r.now, most, least, packet)
			}
		}
		require.InDelta(t, float64(packets*packet*flows)/1e6, r.now.Seconds(), 1e-6, "the hub is never idle")
	})
}

// TestNothingIsLost: whatever is written, whenever, is delivered; bounds and
// rates hold all the time; and then nothing is left behind. Faults come and go.
func TestNothingIsLost(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		packet := rapid.IntRange(1, 3000).Draw(t, "packet")
		r := newTrial(t, Config{
			Packet: packet, Queue: packet + rapid.IntRange(0, 5000).Draw(t, "queue"),
			Window: packet + rapid.IntRange(0, 5000).Draw(t, "window"), Latency: time.Duration(rapid.IntRange(0, 1e7).Draw(t, "latency")),
		}, t.Fatalf)
		for range rapid.IntRange(1, 4).Draw(t, "hosts") {
			r.addHost(drawRate(t, "egress"), drawRate(t, "ingress"))
		}
		pick := rapid.SampledFrom(r.hosts)
		for range rapid.IntRange(1, 6).Draw(t, "flows") {
			r.addFlow(pick.Draw(t, "from"), pick.Draw(t, "to"))
		}
		written := map[*flow]int{}
		for range rapid.IntRange(1, 60).Draw(t, "operations") {
			f := rapid.SampledFrom(r.flows).Draw(t, "flow")
			switch rapid.IntRange(0, 9).Draw(t, "operation") {
			case 0:
				f.path.stalled = true
			case 1:
				r.heal(f.path.from)
			case 2, 3, 4, 5:
				r.step()
			default:
				n := rapid.IntRange(1, 10_000).Draw(t, "bytes")
				r.write(f, n)
				written[f] += n
			}
		}
		for _, h := range r.hosts {
			r.heal(h)
		}
		for r.step() {
		}
		for i, f := range r.flows {
			require.Equal(t, written[f], r.moved[f], "flow %d", i)
			require.Zero(t, f.pending+f.unread)
			require.Equal(t, nowhere, f.place)
		}
		for _, h := range r.hosts {
			require.Zero(t, r.queued(h)+h.inbound)
			require.Zero(t, h.turns.len()+h.inbox.len())
		}
	})
}

// TestMaxMinFairness: flows that always have something to send share the NICs as
// water fills them, which is what the simulator assumes.
func TestMaxMinFairness(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		// The queue is small, so that it soon fills where a flow could be faster.
		r := newTrial(t, Config{Packet: 1000, Queue: 20_000}, t.Fatalf)
		for i := range rapid.IntRange(2, 5).Draw(t, "hosts") {
			rate := rapid.Int64Range(100_000, 1_000_000)
			r.addHost(rate.Draw(t, fmt.Sprint("egress of ", i)), rate.Draw(t, fmt.Sprint("ingress of ", i)))
		}
		pick := rapid.SampledFrom(r.hosts)
		for range rapid.IntRange(1, 8).Draw(t, "flows") {
			r.write(r.addFlow(pick.Draw(t, "from"), pick.Draw(t, "to")), 100_000_000)
		}
		const begin, end = 10 * time.Second, 20 * time.Second
		before := map[*flow]int{}
		for r.now < end {
			r.step()
			if r.now < begin {
				for _, f := range r.flows {
					before[f] = r.moved[f]
				}
			}
		}
		for i, want := range waterFilling(r.flows) {
			f := r.flows[i]
			want *= (end - begin).Seconds()
			got := float64(r.moved[f] - before[f])
			require.InDelta(t, want, got, 0.02*want+3*float64(r.cfg.Packet), "bytes of flow %d from %s to %s", i, f.path.from.name, f.path.to.name)
		}
	})
}

// waterFilling raises the rates of all flows together; those whose NIC is full
// stop there.
func waterFilling(flows []*flow) []float64 {
	rates := make([]float64, len(flows))
	fixed := make([]bool, len(flows))
	for range flows {
		// The NIC with the least left for each of its flows that are not fixed.
		best, full := math.Inf(1), (*nic)(nil)
		for _, n := range nics(flows) {
			left, users := float64(n.rate), 0
			for i, f := range flows {
				if uses(f, n) && fixed[i] {
					left -= rates[i]
				} else if uses(f, n) {
					users++
				}
			}
			if users > 0 && left/float64(users) < best {
				best, full = left/float64(users), n
			}
		}
		for i, f := range flows {
			if full != nil && uses(f, full) && !fixed[i] {
				rates[i], fixed[i] = best, true
			}
		}
	}
	return rates
}

func nics(flows []*flow) (all []*nic) {
	for _, f := range flows {
		all = append(all, &f.path.from.egress, &f.path.to.ingress)
	}
	return all
}

func uses(f *flow, n *nic) bool { return n == &f.path.from.egress || n == &f.path.to.ingress }
