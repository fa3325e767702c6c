package m2n

import (
	"fmt"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/tandem-moe/tandem/m2n/internal/wire"
	"github.com/tandem-moe/tandem/m2n/m2ntest"
)

// TestFrameThatStops: a part of a frame comes, and the rest does not, while the pair's
// other connection goes on. The pair is lost in time, with an error that names the peer and
// the missing bytes, and no other pair is touched.
func TestFrameThatStops(t *testing.T) {
	t.Parallel()
	for _, tc := range []struct {
		name  string
		conn  int // 0 has the credits, 1 the messages
		bytes int // of the frame that come
		fault m2ntest.Fault
		want  string
	}{
		{"lost in the body", 1, 30_000, m2ntest.Drop, "bytes of the body of frame"},
		{"stalled in the body", 1, 60_000, m2ntest.Stall, "bytes of the body of frame"},
		{"lost in the header", 1, wire.FixedBytes + 1000, m2ntest.Drop, "bytes of the header of frame"},
		{"stalled in the fixed part", 1, 10, m2ntest.Stall, "bytes of the frame after frame"},
		{"a sign of life, of which a part is lost", 0, 10, m2ntest.Drop, "bytes of the frame after frame"},
	} {
		t.Run(tc.name, func(t *testing.T) {
			t.Parallel()
			p := newProxied(t, nil)
			region := p.a.Register(zeros(100_000), nil)
			begin := time.Now()
			p.proxy.SetAfter(tc.conn, m2ntest.ToTarget, tc.bytes, tc.fault)
			_, err := p.a.Post("b", Message{Header: zeros(20_000), Body: []Span{{region, 0, 100_000}}})
			require.NoError(t, err)
			lost := requireLost(t, p.b, "a")
			require.ErrorIs(t, lost, ErrSilent)
			require.ErrorContains(t, lost, `peer "a" (epoch 0) is lost`)
			require.ErrorContains(t, lost, tc.want)
			require.ErrorIs(t, requireLost(t, p.a, "b"), ErrSilent)
			require.Less(t, time.Since(begin), inTime)
			p.exchange(t, p.c)
		})
	}
}

// TestHoleInAFrame: bytes in the middle of a frame are lost, and later bytes come:
// keep-alives, which the assembler takes for the rest of the body. They do not keep the
// pair up.
func TestHoleInAFrame(t *testing.T) {
	t.Parallel()
	for _, body := range []int{10_000, 31_000, 100_000, 900_000} {
		t.Run(fmt.Sprint(body), func(t *testing.T) {
			t.Parallel()
			p := newProxied(t, nil)
			region := p.a.Register(zeros(body), nil)
			begin := time.Now()
			p.proxy.SetAfter(1, m2ntest.ToTarget, body/2, m2ntest.Drop)
			_, err := p.a.Post("b", Message{Body: []Span{{region, 0, body}}})
			require.NoError(t, err)
			for c := pollOne(t, p.a); c.Kind != Sent; c = pollOne(t, p.a) {
				p.a.Release(c)
			}
			time.Sleep(testTimeout / 8) // until the proxy has dropped the bytes
			p.proxy.SetOf(1, m2ntest.ToTarget, m2ntest.Pass)
			lost := requireLost(t, p.b, "a")
			require.ErrorIs(t, lost, ErrSilent)
			require.ErrorContains(t, lost, "bytes of the body of frame")
			require.ErrorIs(t, requireLost(t, p.a, "b"), ErrSilent)
			require.Less(t, time.Since(begin), inTime)
			p.exchange(t, p.c)
		})
	}
}

// TestSlowFrameIsNotStuck: a frame that comes slowly, at several times the least rate,
// arrives, although that takes longer than the deadline; both where the low-water mark
// makes its rest come in large pieces and where not.
func TestSlowFrameIsNotStuck(t *testing.T) {
	t.Parallel()
	for _, body := range []int{25_000, 200_000} {
		t.Run(fmt.Sprint(body), func(t *testing.T) {
			t.Parallel()
			e := endpoint(t, Config{ID: "e", PeerTimeout: testTimeout})
			addr := listen(t, e, "tcp:127.0.0.1:0")
			require.NoError(t, e.SetPeer("x", "", 3))
			x := dialAs(t, addr, pairID{From: "x", FromEpoch: 3, To: "e"}).welcomed()
			b := encode(wire.Frame{Kind: wire.Data, Epoch: 3, Seq: 1, Number: 1, Flags: wire.FlagBodySum, Body: body, Lengths: []int{body}}, zeros(body))
			for begin := time.Now(); time.Since(begin) < 3*testTimeout; {
				_, err := x.conn.Write(b[:400])
				require.NoError(t, err)
				b = b[400:]
				time.Sleep(testTimeout / 16)
			}
			_, err := x.conn.Write(b)
			require.NoError(t, err)
			e.Release(pollKind(t, e, Received))
		})
	}
}

// TestConsumerWithoutCreditsIsNotStuck: a message waits with its sender for longer than the
// deadline, as the receiver releases nothing.
func TestConsumerWithoutCreditsIsNotStuck(t *testing.T) {
	t.Parallel()
	p := newProxied(t, func(c *Config) { c.Slots = 1 })
	region := p.a.Register(zeros(100_000), nil)
	for range 2 {
		_, err := p.a.Post("b", Message{Body: []Span{{region, 0, 100_000}}})
		require.NoError(t, err)
	}
	held := pollKind(t, p.b, Received)
	require.NoError(t, pollKind(t, p.a, Sent).Err)
	time.Sleep(3 * testTimeout)
	p.b.Release(held)
	p.b.Release(pollKind(t, p.b, Received))
	require.NoError(t, pollKind(t, p.a, Sent).Err)
}
