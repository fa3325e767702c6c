package m2n

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"flag"
	"fmt"
	"math/rand/v2"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

// mesh is M senders and N receivers that all know each other, over a mix of
// transports.
type mesh struct {
	senders, receivers []*node
}

// node is an endpoint and its consumer.
type node struct {
	*Endpoint
	t    *testing.T
	rand *rand.Rand
	slow bool // the consumer holds messages for a while

	sent, failed map[uint64]bool   // tokens
	next         map[string]uint64 // number of the next message, by sender
	lost         map[string]int
	held         map[string]int // received and not released, by sender
	mostHeld     int
	keep         []Completion
}

// shape is one mesh, drawn from its seed.
type shape struct {
	seed               uint64
	senders, receivers int
	messages           int // of each sender to each receiver
	slots, slotBytes   int
	tcp, shm, inproc   bool
	tls                bool // on TCP connections
	connections        int
	spin               time.Duration
	polite             bool // no endpoint dies
}

func draw(seed uint64) shape {
	r := rand.New(rand.NewPCG(seed, 0))
	pick := func(from ...int) int { return from[r.IntN(len(from))] }
	s := shape{
		seed: seed, senders: 1 + r.IntN(4), receivers: 1 + r.IntN(4), messages: r.IntN(31),
		slots: 1 + r.IntN(5), slotBytes: pick(1, 100, 70_000, 300_000), polite: r.IntN(2) == 0,
	}
	transports := 1 + r.IntN(7)
	s.tcp, s.shm, s.inproc = transports&1 != 0, transports&2 != 0, transports&4 != 0
	s.tls, s.connections = r.IntN(3) == 0, 1+r.IntN(4)
	s.spin = []time.Duration{-1, 0, 200 * time.Microsecond}[r.IntN(3)]
	return s
}

var seeds = flag.Int("mesh.seeds", 24, "how many random meshes TestMesh runs")

// TestMesh: random meshes, sizes and transports; every message arrives whole, in
// order and once, or is reported to its sender as one that may not have arrived. To run one
// mesh again:
//
//	go test ./m2n -run 'TestMesh/seed=7$'
func TestMesh(t *testing.T) {
	n := *seeds
	if testing.Short() {
		n = (n + 1) / 2
	}
	for seed := range uint64(n) {
		t.Run(fmt.Sprintf("seed=%d", seed), func(t *testing.T) {
			s := draw(seed)
			t.Logf("%+v", s)
			newMesh(t, s).run(s)
		})
	}
}

func newMesh(t *testing.T, s shape) *mesh {
	m := &mesh{}
	network := NewNetwork()
	random := rand.New(rand.NewPCG(s.seed, 1))
	type place struct {
		n     *node
		addrs []string
	}
	var places []place
	add := func(kind string, i int) *node {
		cfg := Config{ID: fmt.Sprintf("%s%d", kind, i), Epoch: 1, Network: network, Slots: s.slots, SlotBytes: s.slotBytes,
			PeerTimeout: atLast, DialTimeout: atLast, Queue: 1000, Connections: s.connections, SpinFor: s.spin}
		if s.tls {
			secured(&cfg)
		}
		if !s.polite {
			cfg.DialTimeout = slowness * time.Second // bounds the dialling of a peer that is dead
		}
		e, err := NewEndpoint(cfg)
		require.NoError(t, err)
		n := &node{Endpoint: e, t: t, rand: rand.New(rand.NewPCG(random.Uint64(), 2)), slow: random.IntN(3) == 0,
			sent: map[uint64]bool{}, failed: map[uint64]bool{}, next: map[string]uint64{}, lost: map[string]int{}, held: map[string]int{}}
		p := place{n: n}
		if s.tcp {
			p.addrs = append(p.addrs, listen(t, e, "tcp:127.0.0.1:0"))
		}
		if s.shm {
			p.addrs = append(p.addrs, listen(t, e, "shm:127.0.0.1:0"))
		}
		if s.inproc {
			p.addrs = append(p.addrs, listen(t, e, "inproc:"+cfg.ID))
		}
		places = append(places, p)
		return n
	}
	for i := range s.senders {
		m.senders = append(m.senders, add("sender", i))
	}
	for i := range s.receivers {
		m.receivers = append(m.receivers, add("receiver", i))
	}
	for _, a := range places {
		for _, b := range places {
			if a.n != b.n {
				require.NoError(t, a.n.SetPeer(b.n.cfg.ID, b.addrs[random.IntN(len(b.addrs))], 1))
			}
		}
	}
	return m
}

// run posts everything, consumes until all is reported, and closes.
func (m *mesh) run(s shape) {
	ctx, cancel := context.WithTimeout(context.Background(), 4*atLast)
	defer cancel()
	total := s.messages * s.senders
	var posters, consumers sync.WaitGroup
	victim := -1
	if !s.polite {
		victim = int(s.seed) % s.receivers
	}
	for i, r := range m.receivers {
		consumers.Go(func() {
			want := total
			if i == victim {
				want /= 2
			}
			r.receive(ctx, want, victim < 0)
			if i == victim {
				closeNow(r.Endpoint)
			}
		})
	}
	for _, n := range m.senders {
		tokens := make(chan int, 1)
		posters.Go(func() { tokens <- n.postAll(m.receivers, s) })
		consumers.Go(func() { n.completeAll(ctx, tokens) })
	}
	posters.Wait()
	consumers.Wait()
	m.check(s, victim)
	for _, n := range append(m.senders, m.receivers...) {
		closeNow(n.Endpoint)
	}
}

// content is what the body of a message holds: its sender's name and number, again
// and again.
func content(sender string, number uint64, n int) []byte {
	unit := binary.LittleEndian.AppendUint64([]byte(sender), number)
	return bytes.Repeat(unit, n/len(unit)+1)[:n]
}

// postAll posts messages of random sizes to all receivers, and returns how many Post
// accepted.
func (n *node) postAll(receivers []*node, s shape) int {
	posted := 0
	for number := range uint64(s.messages) {
		for _, r := range receivers {
			size := n.rand.IntN(s.slotBytes + 1)
			if n.rand.IntN(5) == 0 {
				size = 0
			}
			region := n.Register(content(n.cfg.ID, number, size), nil)
			m := Message{Header: binary.LittleEndian.AppendUint64(nil, number), Body: n.cut(region, size)}
			if n.rand.IntN(4) == 0 {
				g := newLatch()
				m.Ready = g
				time.AfterFunc(time.Duration(n.rand.IntN(1000))*time.Microsecond, func() { g.open(nil) })
			}
			_, err := n.Post(r.cfg.ID, m)
			var lost *LostError
			if err != nil && !errors.As(err, &lost) {
				n.t.Errorf("post: %v", err)
			}
			if err == nil {
				posted++
			}
		}
	}
	return posted
}

// cut makes spans of n bytes of a region, some of them empty, or none.
func (n *node) cut(r *Region, size int) []Span {
	var spans []Span
	for at := 0; at < size; {
		l := n.rand.IntN(size - at + 1)
		if n.rand.IntN(3) == 0 || len(spans) > 20 {
			l = size - at
		}
		spans = append(spans, Span{r, at, l})
		at += l
	}
	return spans
}

// completeAll polls until every post of the sender has been reported.
func (n *node) completeAll(ctx context.Context, posted <-chan int) {
	want := -1
	for want < 0 || len(n.sent)+len(n.failed) < want {
		if want < 0 {
			select {
			case want = <-posted:
				continue
			default:
			}
		}
		wait, cancel := context.WithTimeout(ctx, 10*time.Millisecond)
		c, err := n.Poll(wait)
		cancel()
		if ctx.Err() != nil {
			n.t.Errorf("%s: %d of %d messages reported: %+v", n.cfg.ID, len(n.sent)+len(n.failed), want, n.Stats())
			return
		}
		if err == nil {
			n.take(c)
		}
	}
}

func (n *node) take(c Completion) {
	switch c.Kind {
	case Sent:
		if n.sent[c.Token] || n.failed[c.Token] {
			n.t.Errorf("%s: token %d is reported twice", n.cfg.ID, c.Token)
		}
		if c.Err == nil {
			n.sent[c.Token] = true
		} else {
			n.failed[c.Token] = true
		}
	case Lost:
		n.lost[c.Peer]++
		n.t.Logf("%s: %v", n.cfg.ID, c.Err)
	case Received:
		n.takeMessage(c)
	}
}

func (n *node) takeMessage(c Completion) {
	if n.lost[c.Peer] > 0 {
		n.t.Errorf("%s: a message of %s after its loss", n.cfg.ID, c.Peer)
	}
	number := binary.LittleEndian.Uint64(c.Header)
	if number != n.next[c.Peer] {
		n.t.Errorf("%s: message %d of %s, want %d", n.cfg.ID, number, c.Peer, n.next[c.Peer])
	}
	n.next[c.Peer] = number + 1
	n.held[c.Peer]++
	n.mostHeld = max(n.mostHeld, n.held[c.Peer])
	n.keep = append(n.keep, c)
}

// verify compares a message's bytes and releases it.
func (n *node) verify(c Completion) {
	var body []byte
	for _, s := range c.Body {
		body = append(body, s.Bytes()...)
	}
	if !bytes.Equal(content(c.Peer, binary.LittleEndian.Uint64(c.Header), len(body)), body) {
		n.t.Errorf("%s: the body of message %x of %s is wrong", n.cfg.ID, c.Header, c.Peer)
	}
	n.held[c.Peer]--
	n.Release(c)
}

// receive polls until n messages have come, and releases them in random order.
func (n *node) receive(ctx context.Context, want int, all bool) {
	got := 0
	for got < want {
		c, err := n.Poll(ctx)
		if err != nil {
			n.t.Errorf("%s: %d of %d messages: %v", n.cfg.ID, got, want, err)
			return
		}
		if c.Kind == Received {
			got++
		}
		n.take(c)
		for len(n.keep) > 0 && (!n.slow || n.rand.IntN(2) == 0 || got == want || n.full(c.Peer)) {
			i := n.rand.IntN(len(n.keep))
			n.verify(n.keep[i])
			n.keep = append(n.keep[:i], n.keep[i+1:]...)
		}
	}
}

// full reports whether more messages of peer can only come after a release.
func (n *node) full(peer string) bool { return n.held[peer] >= n.cfg.Slots }

func (m *mesh) check(s shape, victim int) {
	for _, r := range m.receivers {
		if r.mostHeld > s.slots {
			r.t.Errorf("%s held %d messages of a peer, its credit is %d", r.cfg.ID, r.mostHeld, s.slots)
		}
	}
	for _, n := range m.senders {
		if victim < 0 && len(n.failed) > 0 {
			n.t.Errorf("%s: %d messages failed, and nobody was lost", n.cfg.ID, len(n.failed))
		}
		for peer, times := range n.lost {
			if times > 1 {
				n.t.Errorf("%s: %s was lost %d times", n.cfg.ID, peer, times)
			}
		}
	}
}

// TestAnyOrder: all endpoints of a full mesh post to each other at once, some before the
// others listen or know their peers.
func TestAnyOrder(t *testing.T) {
	const n = 5
	for _, late := range []bool{false, true} {
		t.Run(fmt.Sprintf("late=%v", late), func(t *testing.T) {
			var all []*Endpoint
			var sockets [n]string
			for i := range n {
				e := endpoint(t, Config{ID: fmt.Sprint(i), DialTimeout: atLast})
				sockets[i] = listen(t, e, "tcp:127.0.0.1:0")
				all = append(all, e)
			}
			var everybody sync.WaitGroup
			for i, e := range all {
				everybody.Go(func() {
					if late {
						time.Sleep(time.Duration(i*17%5) * 10 * time.Millisecond)
					}
					for j := range n {
						if i != j {
							require.NoError(t, e.SetPeer(fmt.Sprint(j), sockets[j], 0))
						}
					}
					for j := range n {
						if i != j {
							_, err := e.Post(fmt.Sprint(j), Message{})
							require.NoError(t, err)
						}
					}
					heard := 0
					for heard < n-1 {
						c := pollOne(t, e)
						require.NotEqual(t, Lost, c.Kind, "%v", c.Err)
						require.NoError(t, c.Err)
						if c.Kind == Received {
							heard++
							e.Release(c)
						}
					}
				})
			}
			everybody.Wait()
			for _, e := range all {
				for _, s := range e.Stats() {
					require.Equal(t, uint64(1), s.Connects)
					require.Equal(t, "up", s.State)
				}
			}
		})
	}
}

// TestDialledBeforeItListens: the address is known, the peer starts later.
func TestDialledBeforeItListens(t *testing.T) {
	b := endpoint(t, Config{ID: "b"})
	socket := listen(t, b, "tcp:127.0.0.1:0")
	require.NoError(t, b.Close(t.Context()))
	a := endpoint(t, Config{ID: "a"})
	require.NoError(t, a.SetPeer("b", socket, 1))
	_, err := a.Post("b", Message{Header: []byte("early")})
	require.NoError(t, err)
	time.Sleep(50 * time.Millisecond)
	b = endpoint(t, Config{ID: "b", Epoch: 1})
	listen(t, b, socket)
	require.NoError(t, b.SetPeer("a", "", 0))
	require.Equal(t, "early", string(pollKind(t, b, Received).Header))
}

// TestOneSidedAddresses: the end that has the address dials, whatever the ids are, and the
// other end waits.
func TestOneSidedAddresses(t *testing.T) {
	for _, ids := range [][2]string{{"a", "b"}, {"b", "a"}} {
		x := endpoint(t, Config{ID: ids[0]})
		y := endpoint(t, Config{ID: ids[1]})
		at := listen(t, x, "tcp:127.0.0.1:0")
		require.NoError(t, x.SetPeer(ids[1], "", 0))
		require.NoError(t, y.SetPeer(ids[0], at, 0))
		_, err := x.Post(ids[1], Message{})
		require.NoError(t, err)
		_, err = y.Post(ids[0], Message{})
		require.NoError(t, err)
		for _, e := range []*Endpoint{x, y} {
			for kinds := map[Kind]int{}; kinds[Sent] == 0 || kinds[Received] == 0; {
				c := pollOne(t, e)
				require.NotEqual(t, Lost, c.Kind, "%v", c.Err)
				kinds[c.Kind]++
			}
		}
	}
}

func TestNobodyThere(t *testing.T) {
	t.Parallel()
	l := endpoint(t, Config{ID: "l"})
	gone := listen(t, l, "tcp:127.0.0.1:0")
	require.NoError(t, l.Close(t.Context()))
	for name, addr := range map[string]string{"tcp": gone, "shm": "shm:" + strings.TrimPrefix(gone, "tcp:"), "inproc": "inproc:b", "none": ""} {
		t.Run(name, func(t *testing.T) {
			a := endpoint(t, Config{ID: "a", Network: NewNetwork(), DialTimeout: 100 * time.Millisecond})
			require.NoError(t, a.SetPeer("b", addr, 1))
			begin := time.Now()
			_, err := a.Post("b", Message{})
			require.NoError(t, err)
			require.Error(t, pollKind(t, a, Sent).Err)
			lost := pollKind(t, a, Lost)
			require.Less(t, time.Since(begin), slowness*time.Second)
			if addr != "" {
				require.ErrorContains(t, lost.Err, "connecting to "+addr)
			}
			_, err = a.Post("b", Message{})
			require.ErrorAs(t, err, new(*LostError))
		})
	}
}

// TestNextEpoch: a peer restarts under a higher epoch while another works on.
func TestNextEpoch(t *testing.T) {
	for _, scheme := range []string{"tcp", "shm", "inproc"} {
		t.Run(scheme, func(t *testing.T) {
			network := NewNetwork()
			start := func(id string, epoch uint64) (*Endpoint, string) {
				e := endpoint(t, Config{ID: id, Epoch: epoch, Network: network})
				addr := map[string]string{"tcp": "tcp:127.0.0.1:0", "shm": "shm:127.0.0.1:0", "inproc": fmt.Sprintf("inproc:%s%d", id, epoch)}[scheme]
				return e, listen(t, e, addr)
			}
			a, atA := start("a", 1)
			old, atOld := start("b", 1)
			c, atC := start("c", 1)
			meet := func(x *Endpoint, atX string, y *Endpoint, atY string) {
				require.NoError(t, x.SetPeer(y.cfg.ID, atY, y.cfg.Epoch))
				require.NoError(t, y.SetPeer(x.cfg.ID, atX, x.cfg.Epoch))
			}
			meet(a, atA, old, atOld)
			meet(a, atA, c, atC)
			transfer(t, a, old)
			transfer(t, a, c)

			// A message of the old incarnation waits to be polled when SetPeer names the new one.
			_, err := old.Post("a", Message{Header: []byte("stale")})
			require.NoError(t, err)
			require.Eventually(t, func() bool { return a.completions.length.Load() == 1 }, atLast, time.Millisecond)
			b, atB := start("b", 2)
			meet(a, atA, b, atB)
			require.NoError(t, a.SetPeer("b", atOld, 1), "old news are ignored")
			lost := pollKind(t, a, Lost)
			require.ErrorIs(t, lost.Err, ErrReplaced)
			require.ErrorContains(t, lost.Err, `peer "b" (epoch 1) is lost: replaced by a higher epoch (2, was 1)`)
			require.Equal(t, uint64(1), a.Stats()[0].DroppedOld)
			require.ErrorIs(t, requireLost(t, old, "a"), ErrReplaced)

			transfer(t, a, b)
			transfer(t, b, a)
			transfer(t, c, a)
			s := a.Stats()[0]
			require.Equal(t, uint64(2), s.Connects)
			require.Equal(t, uint64(1), s.Losses)
			require.Equal(t, uint64(2), s.Epoch)

			a.RemovePeer("b")
			require.ErrorIs(t, pollKind(t, a, Lost).Err, ErrRemoved)
			require.ErrorIs(t, pollKind(t, b, Lost).Err, ErrRemoved)
			_, err = a.Post("b", Message{})
			require.ErrorIs(t, err, ErrUnknownPeer)
		})
	}
}

// TestRemovedPeerComesBack: a pair that was lost comes back with the same two epochs once
// both ends have removed and set their peer. An end that has not done so refuses.
func TestRemovedPeerComesBack(t *testing.T) {
	for _, scheme := range []string{"tcp", "shm"} {
		t.Run(scheme, func(t *testing.T) {
			a, b := wireDuo(t, scheme, nil)
			atA, atB := listen(t, a, scheme+":127.0.0.1:0"), listen(t, b, scheme+":127.0.0.1:0")
			again := func(e *Endpoint, peer, addr string) {
				e.RemovePeer(peer)
				require.NoError(t, e.SetPeer(peer, addr, 1))
			}
			transfer(t, a, b)
			again(a, "b", atB)
			require.ErrorIs(t, requireLost(t, a, "b"), ErrRemoved)
			require.ErrorIs(t, requireLost(t, b, "a"), ErrRemoved)
			require.NoError(t, b.SetPeer("a", atA, 1), "which changes nothing")
			_, err := b.Post("a", Message{})
			require.ErrorIs(t, err, ErrRemoved)

			_, err = a.Post("b", Message{})
			require.NoError(t, err)
			require.ErrorIs(t, pollKind(t, a, Sent).Err, ErrRefused)
			require.ErrorContains(t, requireLost(t, a, "b"), `the pair was lost at "b"`)

			again(b, "a", atA)
			again(a, "b", atB)
			transfer(t, a, b)
			transfer(t, b, a)
			require.EqualValues(t, 1, a.Stats()[0].Epoch)
		})
	}
}
