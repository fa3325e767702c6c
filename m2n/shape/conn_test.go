package shape

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"os"
	"sync"
	"syscall"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"
	"golang.org/x/net/nettest"
)

// network is one with some hosts of the same rate.
func network(t testing.TB, cfg Config, rate int64, hosts ...string) *Network {
	t.Helper()
	n, err := New(cfg)
	require.NoError(t, err)
	t.Cleanup(func() { require.NoError(t, n.Close()) })
	for _, h := range hosts {
		require.NoError(t, n.Host(h, NIC{Egress: rate, Ingress: rate}))
	}
	return n
}

// pipe is a connection from host a to host b.
func pipe(t testing.TB, n *Network, a, b string) (dialled, accepted net.Conn) {
	t.Helper()
	l, err := n.Listener(b)
	require.NoError(t, err)
	defer l.Close()
	dialled, err = n.Dial(a)(context.Background(), l.Addr().String())
	require.NoError(t, err)
	accepted, err = l.Accept()
	require.NoError(t, err)
	return dialled, accepted
}

// TestConformance is what package net's own connections must hold: deadlines,
// concurrency, the kinds of errors.
func TestConformance(t *testing.T) {
	nettest.TestConn(t, func() (c1, c2 net.Conn, stop func(), err error) {
		n, err := New(Config{Latency: 10 * time.Microsecond})
		if err != nil {
			return nil, nil, nil, err
		}
		err = errors.Join(n.Host("a", NIC{}), n.Host("b", NIC{Egress: 1e9, Ingress: 1e9}))
		c1, c2 = pipe(t, n, "a", "b")
		return c1, c2, func() { n.Close() }, err
	})
}

func TestHalfClose(t *testing.T) {
	n := network(t, Config{}, 1e9, "a", "b")
	a, b := pipe(t, n, "a", "b")
	_, err := a.Write([]byte("question"))
	require.NoError(t, err)
	require.NoError(t, a.(interface{ CloseWrite() error }).CloseWrite())
	_, err = a.Write([]byte("more"))
	require.ErrorIs(t, err, syscall.EPIPE)

	got, err := io.ReadAll(b)
	require.NoError(t, err)
	require.Equal(t, "question", string(got))
	_, err = b.Write([]byte("answer"))
	require.NoError(t, err)
	require.NoError(t, b.Close())
	got, err = io.ReadAll(a)
	require.NoError(t, err)
	require.Equal(t, "answer", string(got))
}

// TestCloseWithUnreadBytesResets, as TCP does; so does a write to who has closed.
func TestCloseWithUnreadBytesResets(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		n := network(t, Config{Latency: time.Millisecond, Bubble: true}, 1e6, "a", "b")
		a, b := pipe(t, n, "a", "b")
		_, err := a.Write([]byte("unread"))
		require.NoError(t, err)
		time.Sleep(2 * time.Millisecond)
		require.NoError(t, b.Close())
		_, err = a.Read(make([]byte, 1))
		require.ErrorIs(t, err, syscall.ECONNRESET)

		c, d := pipe(t, n, "a", "b")
		require.NoError(t, d.Close())
		_, err = c.Read(make([]byte, 1))
		require.ErrorIs(t, err, io.EOF)
		_, err = c.Write([]byte("too late"))
		require.NoError(t, err, "nobody knows yet")
		time.Sleep(3 * time.Millisecond)
		_, err = c.Write([]byte("too late"))
		require.ErrorIs(t, err, syscall.ECONNRESET)
	})
}

func TestDialErrors(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		n := network(t, Config{Latency: time.Millisecond, Bubble: true}, 1e6, "a", "b")
		dial := n.Dial("a")
		begin := time.Now()
		_, err := dial(t.Context(), "b:1")
		require.ErrorIs(t, err, syscall.ECONNREFUSED)
		require.Equal(t, 2*time.Millisecond, time.Since(begin), "a round trip")
		_, err = dial(t.Context(), "c:1")
		require.ErrorContains(t, err, `no host "c"`)
		_, err = dial(t.Context(), "b")
		require.ErrorContains(t, err, "missing port")
		_, err = n.Dial("c")(t.Context(), "b:1")
		require.ErrorContains(t, err, `no host "c"`)

		l, err := n.Listener("b")
		require.NoError(t, err)
		require.NoError(t, n.Cut("b"))
		ctx, cancel := context.WithTimeout(t.Context(), time.Second)
		defer cancel()
		_, err = dial(ctx, l.Addr().String())
		require.ErrorIs(t, err, context.DeadlineExceeded)
		require.NoError(t, l.Close())
		require.ErrorIs(t, l.Close(), net.ErrClosed)
		_, err = l.Accept()
		require.ErrorIs(t, err, net.ErrClosed)
	})
}

// TestDialWaitsForHeal: what TCP sends again until it is heard.
func TestDialWaitsForHeal(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		n := network(t, Config{Bubble: true}, 1e6, "a", "b")
		l, err := n.Listener("b")
		require.NoError(t, err)
		require.NoError(t, n.Cut("b"))
		time.AfterFunc(time.Second, func() { n.Heal("b") })
		begin := time.Now()
		_, err = n.Dial("a")(t.Context(), l.Addr().String())
		require.NoError(t, err)
		require.Equal(t, time.Second, time.Since(begin))
	})
}

// TestCut: silence, and no error, at both ends; afterwards only what lost nothing
// goes on.
func TestCut(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		n := network(t, Config{Latency: time.Millisecond, SendBuffer: 1000, Packet: 100, Window: 500, Bubble: true}, 1e6, "a", "b", "c")
		a, b := pipe(t, n, "a", "b")
		quiet, quietPeer := pipe(t, n, "a", "b")
		other, otherPeer := pipe(t, n, "a", "c")
		require.NoError(t, n.Cut("b"))
		for _, c := range []net.Conn{a, b} {
			require.NoError(t, c.SetDeadline(time.Now().Add(time.Minute)))
			n, err := c.Write(make([]byte, 5000))
			require.ErrorIs(t, err, os.ErrDeadlineExceeded)
			require.Equal(t, 1500, n, "a send buffer and a window")
			_, err = c.Read(make([]byte, 1))
			require.ErrorIs(t, err, os.ErrDeadlineExceeded)
		}
		require.NoError(t, echo(other, otherPeer), "others are not touched")

		require.NoError(t, n.Heal("b"))
		require.NoError(t, echo(quiet, quietPeer))
		require.NoError(t, b.SetReadDeadline(time.Now().Add(time.Minute)))
		_, err := b.Read(make([]byte, 1))
		require.ErrorIs(t, err, os.ErrDeadlineExceeded, "a stream has no gaps")
		require.NoError(t, echo(pipe(t, n, "a", "b")))
	})
}

// TestStall: one direction waits, and nothing of it is lost.
func TestStall(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		n := network(t, Config{Latency: time.Millisecond, Bubble: true}, 1e6, "a", "b")
		a, b := pipe(t, n, "a", "b")
		require.NoError(t, n.Stall("a", "b"))
		_, err := a.Write([]byte("held"))
		require.NoError(t, err)
		_, err = b.Write([]byte("free"))
		require.NoError(t, err)
		got := make([]byte, 4)
		_, err = io.ReadFull(a, got)
		require.NoError(t, err)
		require.NoError(t, b.SetReadDeadline(time.Now().Add(time.Minute)))
		_, err = b.Read(got)
		require.ErrorIs(t, err, os.ErrDeadlineExceeded)
		require.NoError(t, b.SetReadDeadline(time.Time{}))
		require.NoError(t, n.Heal("a"))
		_, err = io.ReadFull(b, got)
		require.NoError(t, err)
		require.Equal(t, "held", string(got))
	})
}

func TestReset(t *testing.T) {
	n := network(t, Config{}, 1e9, "a", "b", "c")
	a, b := pipe(t, n, "a", "b")
	other, otherPeer := pipe(t, n, "a", "c")
	require.NoError(t, n.Reset("b", "a"))
	for _, c := range []net.Conn{a, b} {
		_, err := c.Read(make([]byte, 1))
		require.ErrorIs(t, err, syscall.ECONNRESET)
		_, err = c.Write(make([]byte, 1))
		require.ErrorIs(t, err, syscall.ECONNRESET)
	}
	require.NoError(t, echo(other, otherPeer))
	require.ErrorContains(t, n.Reset("a", "x"), `no host "x"`)
	require.ErrorContains(t, n.Cut("x"), `no host "x"`)
}

// echo sends something through a connection and back.
func echo(a, b net.Conn) error {
	got := make([]byte, 5)
	for range 2 {
		if _, err := a.Write([]byte("hello")); err != nil {
			return err
		}
		if _, err := io.ReadFull(b, got); err != nil {
			return err
		}
		a, b = b, a
	}
	if string(got) != "hello" {
		return errors.New("got " + string(got))
	}
	return nil
}

// TestBytesArriveInOrder, by many connections at once, written and read in pieces
// of all sizes.
func TestBytesArriveInOrder(t *testing.T) {
	n := network(t, Config{Packet: 1000, Queue: 3000, SendBuffer: 5000, Window: 2000, Latency: 50 * time.Microsecond}, 1e8, "a", "b", "c")
	var all sync.WaitGroup
	for i := range 6 {
		names := []string{"a", "b", "c"}
		a, b := pipe(t, n, names[i%3], names[(i+1)%3])
		data := make([]byte, 200_000)
		random := rand.NewChaCha8([32]byte{byte(i)})
		random.Read(data)
		all.Go(func() {
			defer a.Close()
			for rest := data; len(rest) > 0; {
				k := min(1+rand.IntN(4000), len(rest))
				if _, err := a.Write(rest[:k]); err != nil {
					t.Error(err)
					return
				}
				rest = rest[k:]
			}
		})
		all.Go(func() {
			got, err := io.ReadAll(b)
			if err != nil || !bytes.Equal(got, data) {
				t.Errorf("%d bytes, %v: they differ from what was written", len(got), err)
			}
		})
	}
	all.Wait()
}

// TestExactTimes: in a bubble a transfer takes what the model says, to the
// nanosecond.
func TestExactTimes(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		n := network(t, Config{Latency: 3 * time.Millisecond, Bubble: true}, 1e8, "a", "b")
		a, b := pipe(t, n, "a", "b")
		begin := time.Now()
		go a.Write(make([]byte, 10_000_000))
		_, err := io.ReadFull(b, make([]byte, 10_000_000))
		require.NoError(t, err)
		require.Equal(t, 103*time.Millisecond, time.Since(begin))
		sent, _, err := n.Carried("a")
		require.NoError(t, err)
		_, received, err := n.Carried("b")
		require.NoError(t, err)
		require.Equal(t, []int64{10_000_000, 10_000_000}, []int64{sent, received})

		// Farther away, and by a faster NIC.
		require.NoError(t, n.Latency("b", "a", 5*time.Millisecond))
		require.NoError(t, n.Host("a", NIC{Egress: 1e9, Ingress: 2e8}))
		begin = time.Now()
		go b.Write(make([]byte, 1_000_000))
		_, err = io.ReadFull(a, make([]byte, 1_000_000))
		require.NoError(t, err)
		require.Equal(t, 15*time.Millisecond, time.Since(begin), "b's egress is the slower one")
	})
}

// TestRate: by the clock on the wall no transfer is faster than the rate, nor
// much slower.
func TestRate(t *testing.T) {
	for name, rate := range map[string]int64{"100MB/s": 1e8, "1GB/s": 1e9} {
		t.Run(name, func(t *testing.T) {
			n := network(t, Config{Latency: 100 * time.Microsecond}, rate, "a", "b")
			a, b := pipe(t, n, "a", "b")
			size := int(rate / 5) // 200 ms
			begin := time.Now()
			var writer sync.WaitGroup
			writer.Go(func() {
				defer a.Close()
				for sent, piece := 0, make([]byte, 256<<10); sent < size; sent += len(piece) {
					if _, err := a.Write(piece[:min(len(piece), size-sent)]); err != nil {
						t.Error(err)
						return
					}
				}
			})
			total, piece := 0, make([]byte, 256<<10)
			for total < size {
				k, err := b.Read(piece)
				require.NoError(t, err)
				total += k
			}
			took := time.Since(begin)
			writer.Wait()
			got := float64(total) / took.Seconds()
			t.Logf("%.1f MB/s, %.1f %% of the rate", got/1e6, 100*got/float64(rate))
			require.LessOrEqual(t, got, 1.001*float64(rate))
			require.Greater(t, got, 0.02*float64(rate), "a slow machine under the race detector is slower, but not so much")
		})
	}
}

// TestLatency: a small message is never early, and on an idle machine not late.
func TestLatency(t *testing.T) {
	const latency = 300 * time.Microsecond
	n := network(t, Config{Latency: latency}, 1e9, "a", "b")
	a, b := pipe(t, n, "a", "b")
	best := time.Hour
	for range 50 {
		begin := time.Now()
		require.NoError(t, echo(a, b))
		took := time.Since(begin)
		require.GreaterOrEqual(t, took, 2*latency)
		best = min(best, took)
	}
	t.Logf("the best of 50 round trips took %v, of which %v are the path's", best, 2*latency)
	require.Less(t, best, 2*latency+20*time.Millisecond)
}

func TestConfig(t *testing.T) {
	_, err := New(Config{Packet: 1000, Queue: 999})
	require.ErrorContains(t, err, "Config.Queue is 999, want 1000 to")
	_, err = New(Config{Latency: -1})
	require.ErrorContains(t, err, "Config.Latency is -1")
	n := network(t, Config{}, 1, "a")
	require.ErrorContains(t, n.Host("b", NIC{Egress: -1}), `host "b"`)
	require.ErrorContains(t, n.Host("", NIC{}), `host ""`)
	require.ErrorContains(t, n.Latency("a", "a", -time.Second), "latency of -1s")
}

// TestCloseWakesAll who wait for the network.
func TestCloseWakesAll(t *testing.T) {
	n := network(t, Config{SendBuffer: 10, Packet: 10, Window: 10}, 1e9, "a", "b")
	a, b := pipe(t, n, "a", "b")
	l, err := n.Listener("a")
	require.NoError(t, err)
	require.NoError(t, n.Cut("a"))
	var waiting sync.WaitGroup
	for name, wait := range map[string]func() error{
		"read":   func() error { _, err := b.Read(make([]byte, 1)); return err },
		"write":  func() error { _, err := a.Write(make([]byte, 1000)); return err },
		"accept": func() error { _, err := l.Accept(); return err },
		"dial":   func() error { _, err := n.Dial("b")(context.Background(), l.Addr().String()); return err },
	} {
		waiting.Go(func() {
			if err := wait(); !errors.Is(err, net.ErrClosed) {
				t.Errorf("%s: %v", name, err)
			}
		})
	}
	time.Sleep(time.Millisecond)
	require.NoError(t, n.Close())
	waiting.Wait()
}

// TestManyDialAtOnce: a thousand hosts connect to one at the same time, each
// after a round trip.
func TestManyDialAtOnce(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		n := network(t, Config{Latency: time.Millisecond, Bubble: true}, 1e9, "hub")
		l, err := n.Listener("hub")
		require.NoError(t, err)
		const hosts = 1000
		begin := time.Now()
		var all sync.WaitGroup
		for i := range hosts {
			name := fmt.Sprint(i)
			require.NoError(t, n.Host(name, NIC{}))
			all.Go(func() {
				c, err := n.Dial(name)(t.Context(), l.Addr().String())
				if err != nil {
					t.Error(err)
					return
				}
				c.Close()
			})
		}
		for range hosts {
			c, err := l.Accept()
			require.NoError(t, err)
			all.Go(func() { c.Close() })
		}
		all.Wait()
		require.Equal(t, 2*time.Millisecond, time.Since(begin))
		time.Sleep(time.Second)
		n.mu.Lock()
		defer n.mu.Unlock()
		require.Empty(t, n.conns)
		for _, p := range n.model.paths {
			require.Empty(t, p.flows, "what is closed is forgotten")
		}
	})
}

// BenchmarkTransfer is the price of the network itself: no rate, no latency.
func BenchmarkTransfer(b *testing.B) {
	n := network(b, Config{}, 0, "a", "b")
	from, to := pipe(b, n, "a", "b")
	piece := make([]byte, 256<<10)
	b.SetBytes(int64(len(piece)))
	var reader sync.WaitGroup
	reader.Go(func() {
		if _, err := io.Copy(io.Discard, to); err != nil {
			b.Error(err)
		}
	})
	for b.Loop() {
		_, err := from.Write(piece)
		require.NoError(b, err)
	}
	require.NoError(b, from.Close())
	reader.Wait()
}
