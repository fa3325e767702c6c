package m2n

import (
	"context"
	"crypto/tls"
	"fmt"
	"io"
	"net"
	"runtime"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/tandem-moe/tandem/m2n/internal/wire"
	"github.com/tandem-moe/tandem/m2n/m2ntest"
)

// testTimeout is the PeerTimeout of most tests of faults. inTime is within which time the
// fault has to be noticed, on a machine that is busy.
const (
	testTimeout = slowness * 800 * time.Millisecond
	inTime      = 4 * testTimeout
)

// proxied is an endpoint a with a peer b that a can only dial through a proxy, and a
// second peer c that a dials directly.
type proxied struct {
	a, b, c *Endpoint
	proxy   *m2ntest.Proxy
}

func newProxied(t *testing.T, change func(*Config)) proxied {
	t.Helper()
	make := func(id string) (*Endpoint, string) {
		cfg := Config{ID: id, PeerTimeout: testTimeout, DialTimeout: atLast}
		if change != nil {
			change(&cfg)
		}
		e := endpoint(t, cfg)
		return e, listen(t, e, "tcp:127.0.0.1:0")
	}
	a, _ := make("a")
	b, atB := make("b")
	c, atC := make("c")
	proxy, err := m2ntest.NewProxy(atB)
	require.NoError(t, err)
	t.Cleanup(proxy.Close)
	require.NoError(t, a.SetPeer("b", proxy.Addr(), 0))
	require.NoError(t, a.SetPeer("c", atC, 0))
	require.NoError(t, b.SetPeer("a", "", 0))
	require.NoError(t, c.SetPeer("a", "", 0))
	p := proxied{a, b, c, proxy}
	p.exchange(t, b)
	p.exchange(t, c)
	return p
}

// exchange sends one message each way between a and e.
func (p proxied) exchange(t *testing.T, e *Endpoint) {
	t.Helper()
	transfer(t, p.a, e)
	transfer(t, e, p.a)
}

// transfer sends one message and has it acknowledged.
func transfer(t testing.TB, from, to *Endpoint) {
	t.Helper()
	_, err := from.Post(to.cfg.ID, Message{Header: []byte("hello")})
	require.NoError(t, err)
	c := pollKind(t, to, Received)
	require.Equal(t, from.cfg.ID, c.Peer)
	to.Release(c)
	require.NoError(t, pollKind(t, from, Sent).Err)
}

// requireLost polls until e reports a peer lost.
func requireLost(t *testing.T, e *Endpoint, peer string) error {
	t.Helper()
	for {
		c := pollOne(t, e)
		if c.Kind == Lost {
			require.Equal(t, peer, c.Peer)
			return c.Err
		}
		e.Release(c)
	}
}

// silences are the ways in which a network loses bytes, on all connections of a pair or on
// one: connection 0 carries the credits, 1 the messages.
var silences = []struct {
	name string
	do   func(*m2ntest.Proxy)
}{
	{"to the peer", func(p *m2ntest.Proxy) { p.Set(m2ntest.ToTarget, m2ntest.Drop) }},
	{"from the peer", func(p *m2ntest.Proxy) { p.Set(m2ntest.FromTarget, m2ntest.Drop) }},
	{"both", func(p *m2ntest.Proxy) { p.SetBoth(m2ntest.Drop) }},
	{"stalled to the peer", func(p *m2ntest.Proxy) { p.Set(m2ntest.ToTarget, m2ntest.Stall) }},
	{"stalled both", func(p *m2ntest.Proxy) { p.SetBoth(m2ntest.Stall) }},
	{"credits to the peer", func(p *m2ntest.Proxy) { p.SetOf(0, m2ntest.ToTarget, m2ntest.Drop) }},
	{"credits from the peer", func(p *m2ntest.Proxy) { p.SetOf(0, m2ntest.FromTarget, m2ntest.Drop) }},
	{"messages to the peer", func(p *m2ntest.Proxy) { p.SetOf(1, m2ntest.ToTarget, m2ntest.Drop) }},
	{"messages from the peer", func(p *m2ntest.Proxy) { p.SetOf(1, m2ntest.FromTarget, m2ntest.Drop) }},
	{"messages stalled", func(p *m2ntest.Proxy) { p.SetOf(1, m2ntest.ToTarget, m2ntest.Stall) }},
}

// TestSilence: whichever connection and direction is silent, both ends notice in time, and
// no other pair is touched.
func TestSilence(t *testing.T) {
	t.Parallel()
	plainAndTLS(t, func(t *testing.T, change func(*Config)) {
		every := 1
		if testing.Short() || strings.HasSuffix(t.Name(), "tls") {
			every = 3
		}
		for i := 0; i < len(silences); i += every {
			tc := silences[i]
			t.Run(tc.name, func(t *testing.T) {
				t.Parallel()
				p := newProxied(t, change)
				begin := time.Now()
				tc.do(p.proxy)
				_, err := p.a.Post("b", Message{Header: []byte("into the void")})
				require.NoError(t, err)
				require.ErrorIs(t, requireLost(t, p.a, "b"), ErrSilent)
				require.ErrorIs(t, requireLost(t, p.b, "a"), ErrSilent)
				require.Less(t, time.Since(begin), inTime)
				p.exchange(t, p.c)
				_, err = p.a.Post("b", Message{})
				require.ErrorIs(t, err, ErrSilent)
				require.ErrorContains(t, err, `peer "b" (epoch 0) is lost`)
			})
		}
	})
}

// TestIdlePairsStayUp: keep-alives keep an idle pair up for longer than PeerTimeout.
func TestIdlePairsStayUp(t *testing.T) {
	t.Parallel()
	p := newProxied(t, func(c *Config) {
		if c.ID == "b" {
			c.PeerTimeout = testTimeout / 2 // a has to send keep-alives as often as b needs them
		}
	})
	ctx, cancel := context.WithTimeout(t.Context(), 2*testTimeout)
	defer cancel()
	_, err := p.a.Poll(ctx)
	require.ErrorIs(t, err, context.DeadlineExceeded)
	p.exchange(t, p.b)
}

// largeBody is more bytes than the buffers of sockets hold.
const largeBody = 64 << 20

// postLarge posts a message that takes long to send.
func postLarge(t *testing.T, p proxied) (token uint64) {
	t.Helper()
	region := p.a.Register(make([]byte, largeBody), nil)
	token, err := p.a.Post("b", Message{Body: []Span{{region, 0, largeBody}}})
	require.NoError(t, err)
	return token
}

// TestStuckWriteIsLost: a message is half written when the peer stops reading.
func TestStuckWriteIsLost(t *testing.T) {
	t.Parallel()
	plainAndTLS(t, func(t *testing.T, change func(*Config)) {
		p := newProxied(t, func(c *Config) { change(c); c.SlotBytes = largeBody; c.Slots = 2 })
		p.proxy.Set(m2ntest.ToTarget, m2ntest.Stall)
		begin := time.Now()
		token := postLarge(t, p)
		p.exchange(t, p.c)
		sent := pollKind(t, p.a, Sent)
		require.Equal(t, token, sent.Token)
		require.ErrorIs(t, sent.Err, ErrSilent)
		pollKind(t, p.a, Lost)
		require.Less(t, time.Since(begin), inTime)
	})
}

// TestCorruptionIsNamedAtBothEnds: one bit is flipped, of a message or on the
// lane of credits.
func TestCorruptionIsNamedAtBothEnds(t *testing.T) {
	t.Parallel()
	plainAndTLS(t, func(t *testing.T, change func(*Config)) {
		for conn, want := range []string{"checksum of the fixed part", "checksum of the body"} {
			t.Run(fmt.Sprint(conn), func(t *testing.T) {
				t.Parallel()
				p := newProxied(t, change)
				if p.a.cfg.TLS != nil {
					want = "tls: bad record MAC"
				}
				region := p.a.Register(make([]byte, 1000), nil)
				begin := time.Now()
				p.proxy.SetOf(conn, m2ntest.ToTarget, m2ntest.Corrupt)
				_, err := p.a.Post("b", Message{Body: []Span{{region, 0, 1000}}})
				require.NoError(t, err)
				lost := requireLost(t, p.b, "a")
				require.ErrorIs(t, lost, ErrBadFrame)
				require.ErrorContains(t, lost, want)
				told := requireLost(t, p.a, "b")
				require.ErrorIs(t, told, ErrBadFrame)
				require.ErrorContains(t, told, want)
				require.Less(t, time.Since(begin), inTime)
				p.exchange(t, p.c)
			})
		}
	})
}

func TestCutMidMessage(t *testing.T) {
	t.Parallel()
	plainAndTLS(t, func(t *testing.T, change func(*Config)) {
		var memory memoryMeter
		p := newProxied(t, func(c *Config) {
			change(c)
			c.SlotBytes, c.Slots = largeBody, 1
			if c.ID == "b" {
				memory.watch(c)
			}
		})
		p.proxy.Delay(m2ntest.ToTarget, 10*time.Millisecond) // so that the message is under way when the connection is cut
		before := p.proxy.Bytes(m2ntest.ToTarget)
		postLarge(t, p)
		require.Eventually(t, func() bool { return p.proxy.Bytes(m2ntest.ToTarget) > before+largeBody/64 }, atLast, time.Millisecond)
		begin := time.Now()
		p.proxy.Cut()
		require.ErrorIs(t, pollKind(t, p.a, Sent).Err, ErrBroken)
		require.ErrorIs(t, pollKind(t, p.a, Lost).Err, ErrBroken)
		require.ErrorIs(t, requireLost(t, p.b, "a"), ErrBroken)
		require.Less(t, time.Since(begin), inTime)
		memory.requireFreed(t, 0)
		p.exchange(t, p.c)
	})
}

const atLast = slowness * 5 * time.Second

// TestStalledReceiverBoundsTheSender: a receiver that releases nothing costs the sender as
// much memory as Queue allows, however many messages are posted.
func TestStalledReceiverBoundsTheSender(t *testing.T) {
	const attempts, slots, queue, header, body = 10_000, 2, 8, 10_000, 100_000
	for name, make := range wires {
		t.Run(name, func(t *testing.T) {
			a, b := make(t, func(c *Config) { c.Slots, c.Queue, c.PeerTimeout = slots, queue, 2*atLast })
			transfer(t, a, b)
			region := a.Register(zeros(body), nil)
			before := heap()
			refused := 0
			for range attempts {
				_, err := a.Post("b", Message{Header: zeros(header), Body: []Span{{region, 0, body}}})
				if err != nil {
					require.ErrorIs(t, err, ErrQueueFull)
					refused++
				}
			}
			require.Equal(t, attempts-queue, refused)
			require.LessOrEqual(t, a.Stats()[0].Queued, queue)
			require.Eventually(t, func() bool { return a.Stats()[0].Queued == queue-slots }, atLast, time.Millisecond)
			require.Less(t, heap()-before, 2<<20)
			for range queue {
				b.Release(pollKind(t, b, Received))
			}
			for range queue {
				require.NoError(t, pollKind(t, a, Sent).Err)
			}
		})
	}
}

// wires are the transports between processes that are part of m2n.
var wires = map[string]func(testing.TB, func(*Config)) (a, b *Endpoint){"tcp": tcpDuo, "tls": tlsDuo, "shm": shmDuo}

// heap is how many bytes are allocated and in use.
func heap() int {
	runtime.GC()
	var m runtime.MemStats
	runtime.ReadMemStats(&m)
	return int(m.HeapAlloc)
}

// TestSlowReceiverBoundsTheSender: messages that are posted beyond credits and queue are
// refused.
func TestSlowReceiverBoundsTheSender(t *testing.T) {
	a, b := tcpDuo(t, func(c *Config) { c.Slots, c.Queue = 2, 6 })
	var err error
	posted := 0
	for ; err == nil; posted++ {
		require.LessOrEqual(t, posted, 6)
		_, err = a.Post("b", Message{})
	}
	require.ErrorIs(t, err, ErrQueueFull)
	require.Equal(t, 6, posted-1)
	pollKind(t, a, Sent)
	pollKind(t, a, Sent)
	_, ok := a.TryPoll()
	require.False(t, ok, "a third message is out with two credits")
	require.Equal(t, 4, a.Stats()[0].Queued)
	for range 6 {
		b.Release(pollKind(t, b, Received))
	}
	for range 4 {
		pollKind(t, a, Sent)
	}
}

func TestTooLarge(t *testing.T) {
	for name, make := range map[string]func(testing.TB, func(*Config)) (a, b *Endpoint){"inproc": duo, "tcp": tcpDuo, "shm": shmDuo} {
		t.Run(name, func(t *testing.T) {
			small := func(c *Config) {
				if c.ID == "b" {
					c.SlotBytes, c.HeaderBytes = 100, 10
				}
			}
			a, b := make(t, small)
			transfer(t, a, b)
			region := a.Register(zeros(101), nil)
			_, err := a.Post("b", Message{Body: []Span{{region, 0, 101}}})
			require.ErrorIs(t, err, ErrTooLarge)
			require.ErrorContains(t, err, `post to peer "b": message is too large: the body has 101 bytes, the peer's slot 100`)
			_, err = a.Post("b", Message{Header: zeros(11)})
			require.ErrorContains(t, err, "the header has 11 bytes, the peer takes 10")
			_, err = a.Post("b", Message{Body: []Span{{region, 100, 2}}})
			require.ErrorContains(t, err, "span 0 (offset 100, length 2) is outside of its region of 101 bytes")
			transfer(t, a, b)

			// Before the pair is up the sender does not know the limits: then the pair is lost.
			a, b = make(t, small)
			_, err = a.Post("b", Message{Body: []Span{{region, 0, 101}}})
			require.NoError(t, err)
			require.ErrorIs(t, pollKind(t, a, Sent).Err, ErrTooLarge)
			require.ErrorIs(t, pollKind(t, a, Lost).Err, ErrTooLarge)
			require.ErrorIs(t, pollKind(t, b, Lost).Err, ErrTooLarge)
		})
	}
}

func zeros(n int) []byte { return make([]byte, n) }

// stranger is a peer whose frames the test writes by hand.
type stranger struct {
	t *testing.T
	*handshakeConn
	seq    uint64
	number uint64
}

// dialAs shakes hands with e as a peer that e knows, on one connection.
func dialAs(t *testing.T, addr string, h pairID) *stranger {
	t.Helper()
	return dialLane(t, addr, h, func(*greeting) {})
}

// dialLane does so with a hello that the caller changes.
func dialLane(t *testing.T, addr string, h pairID, change func(*greeting)) *stranger {
	t.Helper()
	conn, err := net.Dial("tcp", strings.TrimPrefix(addr, "tcp:"))
	require.NoError(t, err)
	t.Cleanup(func() { conn.Close() })
	self := endpoint(t, Config{ID: h.From, Epoch: h.FromEpoch, PeerTimeout: atLast})
	s := &stranger{t: t, handshakeConn: newHandshakeConn(context.Background(), self, conn, nil)}
	require.NoError(t, conn.SetDeadline(time.Now().Add(2*atLast)))
	g := self.greeting(h)
	change(&g)
	require.NoError(t, s.sendControl(wire.Hello, g))
	return s
}

func (s *stranger) welcomed() *stranger {
	s.t.Helper()
	for _, kind := range []wire.Kind{wire.Welcome, wire.Ready} {
		_, err := s.readGreeting(kind)
		require.NoError(s.t, err)
	}
	return s
}

func (s *stranger) refused() error {
	s.t.Helper()
	_, err := s.readGreeting(wire.Welcome)
	require.ErrorIs(s.t, err, ErrRefused)
	return err
}

// send writes a frame, with the right numbers unless f has its own.
func (s *stranger) send(f wire.Frame, body string) {
	s.t.Helper()
	s.seq++
	if f.Seq == 0 {
		f.Seq = s.seq
	}
	if f.Kind == wire.Data && f.Epoch == s.ep.cfg.Epoch {
		s.number++
	}
	f.Number = s.number
	_, err := s.conn.Write(encode(f, []byte(body)))
	require.NoError(s.t, err)
}

func TestBreachesOfTheProtocol(t *testing.T) {
	message := wire.Frame{Kind: wire.Data, Epoch: 3, Flags: wire.FlagBodySum, Body: 1, Lengths: []int{1}}
	with := func(change func(*wire.Frame)) wire.Frame {
		f := message
		change(&f)
		return f
	}
	for _, tc := range []struct {
		name string
		send []wire.Frame
		want string
	}{
		{"no credit", []wire.Frame{message, message, message}, "frame 3: bad frame: a message without a credit: 2 are received and not released"},
		{"gap", []wire.Frame{with(func(f *wire.Frame) { f.Seq = 2 })}, "its number should be 1"},
		{"newer epoch", []wire.Frame{with(func(f *wire.Frame) { f.Epoch = 4 })}, "it is of epoch 4, the peer of 3"},
		{"more credits than are out", []wire.Frame{with(func(f *wire.Frame) { f.Credits = 1 })}, "it gives back 1 credits, 0 of 8 are out"},
		{"type", []wire.Frame{{Kind: wire.Hello, Epoch: 3}}, "type 1 outside of a handshake"},
		{"slot overrun", []wire.Frame{with(func(f *wire.Frame) { f.Body, f.Lengths = 101, []int{101} })}, "it announces 101 bytes of body, the limit is 100"},
		{"goodbye that is none", []wire.Frame{{Kind: wire.Goodbye, Epoch: 3, Header: []byte("{")}}, "goodbye"},
		{"header overrun", []wire.Frame{with(func(f *wire.Frame) { f.Header = zeros(11) })}, "it announces 11 bytes of header, the limit is 10"},
	} {
		t.Run(tc.name, func(t *testing.T) {
			e := endpoint(t, Config{ID: "e", Slots: 2, SlotBytes: 100, HeaderBytes: 10})
			addr := listen(t, e, "tcp:127.0.0.1:0")
			require.NoError(t, e.SetPeer("x", "", 3))
			x := dialAs(t, addr, pairID{From: "x", FromEpoch: 3, To: "e"}).welcomed()
			for _, f := range tc.send {
				x.send(f, "!")
			}
			for range len(tc.send) - 1 {
				pollKind(t, e, Received)
			}
			lost := pollKind(t, e, Lost)
			require.ErrorIs(t, lost.Err, ErrBadFrame)
			require.ErrorContains(t, lost.Err, tc.want)
			f, err := wire.ReadControl(x.conn)
			require.NoError(t, err)
			require.Equal(t, wire.Goodbye, f.Kind)
			told, err := parseGoodbye(f.Header)
			require.NoError(t, err)
			require.ErrorContains(t, told, tc.want, "the peer is told")
		})
	}
}

func TestFramesOfAnOlderEpochAreDropped(t *testing.T) {
	const body = 10*discardBytes + 1
	e := endpoint(t, Config{ID: "e"})
	addr := listen(t, e, "tcp:127.0.0.1:0")
	require.NoError(t, e.SetPeer("x", "", 3))
	x := dialAs(t, addr, pairID{From: "x", FromEpoch: 3, To: "e"}).welcomed()
	for _, epoch := range []uint64{2, 3} {
		f := wire.Frame{Kind: wire.Data, Epoch: epoch, Flags: wire.FlagBodySum, Body: body, Lengths: []int{body}, Header: []byte{byte(epoch)}}
		x.send(f, strings.Repeat("!", body))
	}
	require.Equal(t, []byte{3}, pollKind(t, e, Received).Header)
	require.Equal(t, uint64(1), e.Stats()[0].DroppedOld)
	require.Equal(t, uint64(1), e.Stats()[0].Received["tcp"].Messages)
}

func TestRefusalsNameBothValues(t *testing.T) {
	t.Parallel()
	e := endpoint(t, Config{ID: "e", Epoch: 5, DialTimeout: slowness * time.Second})
	addr := listen(t, e, "tcp:127.0.0.1:0")
	require.NoError(t, e.SetPeer("x", "", 3))
	good := pairID{From: "x", FromEpoch: 3, To: "e", ToEpoch: 5}
	for _, tc := range []struct {
		name   string
		change func(*pairID)
		want   string
		final  bool
	}{
		{"unknown", func(h *pairID) { h.From = "y" }, `peer "y" (epoch 3) is not known to "e"`, true},
		{"another id", func(h *pairID) { h.To = "f" }, `the peer wanted is "f", this is "e"`, true},
		{"older epoch of the peer", func(h *pairID) { h.FromEpoch = 2 }, `peer "x" has epoch 2, "e" knows epoch 3`, true},
		{"newer epoch of the peer", func(h *pairID) { h.FromEpoch = 4 }, `peer "x" has epoch 4, "e" knows epoch 3`, true},
		{"older epoch of ours", func(h *pairID) { h.ToEpoch = 4 }, `the epoch wanted of "e" is 4, this is 5`, true},
		{"newer epoch of ours", func(h *pairID) { h.ToEpoch = 6 }, `the epoch wanted of "e" is 6, this is 5`, false},
	} {
		t.Run(tc.name, func(t *testing.T) {
			h := good
			tc.change(&h)
			err := dialAs(t, addr, h).refused()
			require.ErrorContains(t, err, tc.want)
			require.Equal(t, tc.final, isFinal(err))
		})
	}
	dialAs(t, addr, good).welcomed()
	require.ErrorContains(t, dialAs(t, addr, good).refused(), `the pair is up at "e"`)
	require.Equal(t, uint64(1), e.Stats()[0].DroppedOld, "the older connection is counted")
}

func TestAnotherProtocolVersionIsRefused(t *testing.T) {
	e := endpoint(t, Config{ID: "e"})
	addr := listen(t, e, "tcp:127.0.0.1:0")
	conn, err := net.Dial("tcp", strings.TrimPrefix(addr, "tcp:"))
	require.NoError(t, err)
	defer conn.Close()
	b := encode(wire.Frame{Kind: wire.Hello}, nil)
	b[4] = 9
	_, err = conn.Write(b)
	require.NoError(t, err)
	answer, err := io.ReadAll(conn)
	require.NoError(t, err)
	require.Contains(t, string(answer), "protocol version 9, this end speaks 2")
}

// TestPeerOfAnotherVersion: a peer that is dialled has another protocol version. The pair
// fails at once, without further attempts.
func TestPeerOfAnotherVersion(t *testing.T) {
	plainAndTLS(t, func(t *testing.T, change func(*Config)) {
		l, err := net.Listen("tcp", "127.0.0.1:0")
		require.NoError(t, err)
		cfg := Config{ID: "a", DialTimeout: 4 * atLast}
		change(&cfg)
		if cfg.TLS != nil {
			l = tls.NewListener(l, cfg.TLS)
		}
		defer l.Close()
		answered := make(chan error, 1)
		go func() { answered <- answerByVersion(l, 9) }()
		a := endpoint(t, cfg)
		require.NoError(t, a.SetPeer("b", "tcp:"+l.Addr().String(), 0))
		begin := time.Now()
		_, err = a.Post("b", Message{})
		require.NoError(t, err)
		require.ErrorIs(t, pollKind(t, a, Sent).Err, ErrBadFrame)
		require.ErrorContains(t, pollKind(t, a, Lost).Err, "protocol version 9, this end speaks 2")
		require.Less(t, time.Since(begin), 2*atLast)
		require.NoError(t, <-answered)
	})
}

// answerByVersion answers one hello with a frame of another version.
func answerByVersion(l net.Listener, version byte) error {
	conn, err := l.Accept()
	if err != nil {
		return err
	}
	defer conn.Close()
	if _, err := wire.ReadControl(conn); err != nil {
		return err
	}
	b := encode(wire.Frame{Kind: wire.Welcome}, nil)
	b[4] = version
	_, err = conn.Write(b)
	return err
}

// TestClientsThatSayNothing: connections without a hello cost little, are closed after
// DialTimeout, and hinder no peer.
func TestClientsThatSayNothing(t *testing.T) {
	t.Parallel()
	a, b := tcpDuo(t, func(c *Config) { c.DialTimeout = slowness * time.Second })
	addr := strings.TrimPrefix(b.listeners[0].Addr().String(), "tcp:")
	var conns []net.Conn
	for range 300 {
		c, err := net.Dial("tcp", addr)
		require.NoError(t, err)
		defer c.Close()
		conns = append(conns, c)
	}
	transfer(t, a, b)
	for _, c := range conns {
		require.NoError(t, c.SetReadDeadline(time.Now().Add(atLast)))
		_, err := io.ReadAll(c)
		require.NoError(t, err, "the endpoint hangs up")
	}
}
