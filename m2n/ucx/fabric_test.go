//go:build ucx && cgo

package ucx

import (
	"bytes"
	"fmt"
	"runtime"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/tandem-moe/tandem/m2n"
)

// onAll runs a test over each transport.
func onAll(t *testing.T, test func(t *testing.T, tls string)) {
	for _, tls := range transports {
		t.Run(tls, func(t *testing.T) { test(t, tls) })
	}
}

// TestMessages sends messages of all shapes both ways at once, from memory that is
// registered and that is not.
func TestMessages(t *testing.T) {
	onAll(t, func(t *testing.T, tls string) {
		const slots, slotBytes, headerBytes = 4, 8 << 20, 128 << 10
		a := newEnd(t, open(t, tls), slots, slotBytes, headerBytes)
		b := newEnd(t, open(t, tls), slots, slotBytes, headerBytes)
		connect(t, a, b)
		source := random(1, 9<<20)
		require.NoError(t, a.fabric.Register(source))
		for _, bytes := range []int{0, 1, 100, 4 << 10, 70_000, 256 << 10, 8 << 20} {
			for _, spans := range []int{0, 1, 3, 1000} {
				if spans == 0 && bytes > 0 {
					continue
				}
				for _, header := range []int{0, 60, 100 << 10} {
					t.Run(fmt.Sprintf("%d bytes in %d spans and %d of header", bytes, spans, header), func(t *testing.T) {
						exchange(t, a, b, source, bytes, spans, header)
					})
				}
			}
		}
	})
}

// TestAsForDevices receives as into a device's memory, which UCX alone writes to.
func TestAsForDevices(t *testing.T) {
	onAll(t, func(t *testing.T, tls string) {
		fa, fb := open(t, tls), open(t, tls)
		fa.asDevice, fb.asDevice = true, true
		a, b := newEnd(t, fa, 4, 1<<20, 128<<10), newEnd(t, fb, 4, 1<<20, 128<<10)
		connect(t, a, b)
		source := random(1, 2<<20)
		for _, bytes := range []int{0, 1, 100, 4 << 10, 70_000, 1 << 20} {
			for _, spans := range []int{1, 100} {
				exchange(t, a, b, source, bytes, spans, 1000)
			}
		}
		require.NoError(t, a.Send(1, make([]byte, 100<<10), []m2n.Span{{Region: source, Len: 100}}))
		until(t, "the failure", func() bool { return b.failed != nil }, a, b)
		require.ErrorIs(t, b.failed, m2n.ErrTooLarge)
		require.ErrorContains(t, b.failed, "a header of 102400 bytes")
	})
}

// exchange sends the same message both ways and checks it.
func exchange(t *testing.T, a, b *end, source *m2n.Region, bytes, spans, header int) {
	body, want := cut(source, bytes, spans)
	head := random(2, header).Bytes
	*a, *b = reset(a), reset(b)
	require.NoError(t, a.Send(7, head, body))
	require.NoError(t, b.Send(8, head, body))
	until(t, "the exchange", func() bool {
		return len(a.received) == 1 && len(b.received) == 1 && len(a.sent) == 1 && len(b.sent) == 1
	}, a, b)
	requireSent(t, a, 7)
	requireSent(t, b, 8)
	requireReceived(t, a, head, want)
	requireReceived(t, b, head, want)
}

func reset(e *end) end { return end{FabricConn: e.FabricConn, fabric: e.fabric, in: e.in} }

func requireSent(t *testing.T, e *end, token uint64) {
	t.Helper()
	require.NoError(t, e.sent[0].Err)
	require.Equal(t, token, e.sent[0].Token)
}

func requireReceived(t *testing.T, e *end, header, body []byte) {
	t.Helper()
	ev := e.received[0]
	require.True(t, bytes.Equal(header, ev.Header), "header")
	require.True(t, bytes.Equal(body, e.slot(ev)), "body of %d bytes, want %d", ev.Body, len(body))
	e.Refill(ev.Slot)
}

// TestSentSpansMayChange: whoever reuses memory at Sent is right.
func TestSentSpansMayChange(t *testing.T) {
	onAll(t, func(t *testing.T, tls string) {
		const size = 1 << 20
		a := newEnd(t, open(t, tls), 8, size, 64)
		b := newEnd(t, open(t, tls), 8, size, 64)
		connect(t, a, b)
		buffer := &m2n.Region{Bytes: make([]byte, size)}
		for i := range 50 {
			for k := range buffer.Bytes {
				buffer.Bytes[k] = byte(i)
			}
			*a, *b = reset(a), reset(b)
			require.NoError(t, a.Send(uint64(i), nil, []m2n.Span{{Region: buffer, Len: size}}))
			until(t, "sent", func() bool { return len(a.sent) == 1 }, a, b)
			clear(buffer.Bytes)
			until(t, "received", func() bool { return len(b.received) == 1 }, a, b)
			require.Equal(t, size, bytes.Count(b.slot(b.received[0]), []byte{byte(i)}))
			b.Refill(b.received[0].Slot)
		}
	})
}

// TestCollectorIsKeptAway: memory that only a message points to stays.
func TestCollectorIsKeptAway(t *testing.T) {
	a := newEnd(t, open(t, "tcp"), 8, 1<<20, 64)
	b := newEnd(t, open(t, "tcp"), 8, 1<<20, 64)
	connect(t, a, b)
	for i := range 6 {
		require.NoError(t, a.Send(uint64(i), []byte{byte(i)}, []m2n.Span{{Region: random(uint64(i), 1<<20), Len: 1 << 20}}))
		runtime.GC()
		_ = make([]byte, 4<<20)
	}
	until(t, "six messages", func() bool { return len(b.received) == 6 && len(a.sent) == 6 }, a, b)
	for _, ev := range b.received {
		require.True(t, bytes.Equal(random(uint64(ev.Header[0]), 1<<20).Bytes, b.slot(ev)))
	}
}

// TestForwarding sends from the slots of a connection that is closed meanwhile.
func TestForwarding(t *testing.T) {
	onAll(t, func(t *testing.T, tls string) {
		const size = 1 << 20
		fb := open(t, tls)
		a, b := newEnd(t, open(t, tls), 1, size, 64), newEnd(t, fb, 1, size, 64)
		c, d := newEnd(t, fb, 1, size, 64), newEnd(t, open(t, tls), 1, size, 64)
		connect(t, a, b)
		connect(t, c, d)
		source := random(12, size)
		require.NoError(t, a.Send(1, nil, []m2n.Span{{Region: source, Len: size}}))
		until(t, "the first hop", func() bool { return len(b.received) == 1 }, a, b)
		require.NoError(t, c.Send(2, nil, []m2n.Span{{Region: b.in.Memory, Len: size}}))
		b.Close()
		until(t, "the close", func() bool { return b.closed }, b)
		until(t, "the second hop", func() bool { return len(c.sent) == 1 && len(d.received) == 1 }, c, d)
		require.True(t, bytes.Equal(source.Bytes, d.slot(d.received[0])))
		require.NotContains(t, fb.memory, b.in.Memory)
	})
}

// TestWhatNoPeerOfOursDoes: a message beyond a limit fails its connection alone.
func TestWhatNoPeerOfOursDoes(t *testing.T) {
	big := random(3, 1<<20)
	for name, tc := range map[string]struct {
		bytes, header, messages int
		want                    string
	}{
		"a body too long":            {1001, 0, 1, "announces 1001 bytes of body, the limit is 1000"},
		"a body far too long":        {1 << 20, 0, 1, "announces 1048576 bytes of body, the limit is 1000"},
		"a header too long":          {0, 101, 1, "announces 101 bytes of header, the limit is 100"},
		"a header far too long":      {0, 1 << 20, 1, "announces 1048576 bytes of header, the limit is 100"},
		"a message that has no slot": {10, 10, 3, "a message beyond the 2 that there are slots for"},
	} {
		t.Run(name, func(t *testing.T) {
			onAll(t, func(t *testing.T, tls string) {
				fa, fb := open(t, tls), open(t, tls)
				a, b := newEnd(t, fa, 2, 1000, 100), newEnd(t, fb, 2, 1000, 100)
				c, d := newEnd(t, fa, 2, 1000, 100), newEnd(t, fb, 2, 1000, 100)
				connect(t, a, b)
				connect(t, c, d)
				for i := range tc.messages {
					require.NoError(t, a.Send(uint64(i), big.Bytes[:tc.header], []m2n.Span{{Region: big, Len: tc.bytes}}))
				}
				until(t, "the failure", func() bool { return b.failed != nil }, a, b)
				require.ErrorIs(t, b.failed, m2n.ErrBadFrame)
				require.ErrorContains(t, b.failed, tc.want)
				b.Close()
				until(t, "the close", func() bool { return b.closed }, b)
				require.NoError(t, c.Send(9, []byte("another connection"), nil))
				until(t, "another connection's message", func() bool { return len(d.received) == 1 }, c, d)
			})
		})
	}
}

// TestStrays: a message for a key that is not, or no longer, here is dropped.
func TestStrays(t *testing.T) {
	onAll(t, func(t *testing.T, tls string) {
		a := newEnd(t, open(t, tls), 2, 1<<20, 100)
		b := newEnd(t, open(t, tls), 2, 1<<20, 100)
		body := random(4, 1<<20)
		require.NoError(t, a.Connect(b.fabric.Address(), b.Key()^1<<40))
		require.NoError(t, b.Connect(a.fabric.Address(), a.Key()))
		for i, size := range []int{0, 1 << 20} {
			require.NoError(t, a.Send(uint64(i), nil, []m2n.Span{{Region: body, Len: size}}))
		}
		until(t, "the drops", func() bool { return b.fabric.strays() == 2 && len(a.sent) == 2 }, a, b)
		require.Empty(t, b.received)
		require.NoError(t, b.failed)
	})
}

// TestEventFD: a descriptor wakes who waits for a message, and for the end of a
// send that another goroutine began.
func TestEventFD(t *testing.T) {
	onAll(t, func(t *testing.T, tls string) {
		a := newEnd(t, open(t, tls), 4, 1<<20, 64)
		b := newEnd(t, open(t, tls), 4, 1<<20, 64)
		connect(t, a, b)
		require.NoError(t, a.Send(0, nil, nil))
		until(t, "the first message", func() bool { return len(b.received) == 1 && len(a.sent) == 1 }, a, b)
		for range 100 { // until nothing is left of connecting
			step(a.fabric, b.fabric)
		}
		for wait(t, b.fabric, 0) {
			step(b.fabric)
		}
		woken := make(chan bool)
		go func() { woken <- wait(t, b.fabric, patience) }()
		require.NoError(t, a.Send(1, nil, nil))
		until(t, "the message is out", func() bool { return len(a.sent) == 2 }, a)
		require.True(t, <-woken)
		until(t, "the message", func() bool { return len(b.received) == 2 }, b)

		for wait(t, a.fabric, 0) {
			step(a.fabric)
		}
		go func() { woken <- wait(t, a.fabric, patience) }()
		require.NoError(t, a.Send(2, nil, nil))
		require.True(t, <-woken)
	})
}

// TestCloseCancels: what is under way when a connection is closed is reported, and
// then the connection is, whatever the peer does.
func TestCloseCancels(t *testing.T) {
	onAll(t, func(t *testing.T, tls string) {
		const size = 4 << 20
		a := newEnd(t, open(t, tls), 4, size, 64)
		b := newEnd(t, open(t, tls), 4, size, 64)
		connect(t, a, b)
		require.NoError(t, a.Send(0, nil, nil))
		until(t, "the first message", func() bool { return len(b.received) == 1 && len(a.sent) == 1 }, a, b)
		body := []m2n.Span{{Region: random(5, size), Len: size}}
		for i := range 3 {
			require.NoError(t, a.Send(uint64(i+1), nil, body))
		}
		step(a.fabric, b.fabric)
		a.Close()
		require.Error(t, a.Send(9, nil, nil))
		until(t, "the close", func() bool { return a.closed }, a)
		require.Len(t, a.sent, 4)
		for _, ev := range a.sent[1:] {
			if ev.Err != nil {
				require.ErrorContains(t, ev.Err, "sending: ")
			}
		}
		b.Close()
		until(t, "the other close", func() bool { return b.closed }, b)
	})
}

// TestManyConnections: connections come and go, and leave nothing.
func TestManyConnections(t *testing.T) {
	fa, fb := open(t, "posix,self"), open(t, "posix,self")
	for range 20 {
		var ends []*end
		for range 5 {
			a, b := newEnd(t, fa, 2, 1000, 64), newEnd(t, fb, 2, 1000, 64)
			connect(t, a, b)
			require.NoError(t, a.Send(1, []byte("hello"), nil))
			ends = append(ends, a, b)
		}
		until(t, "five messages", func() bool {
			n := 0
			for _, e := range ends {
				n += len(e.received)
			}
			return n == 5
		}, ends[0], ends[1])
		for _, e := range ends {
			e.Close()
			e.Close()
		}
		until(t, "ten closes", func() bool {
			for _, e := range ends {
				if !e.closed {
					return false
				}
			}
			return true
		}, ends[0], ends[1])
	}
	for _, f := range []*Fabric{fa, fb} {
		require.Empty(t, f.conns)
		require.Empty(t, f.memory)
		require.Len(t, f.sends.free, len(f.sends.all))
	}
}

func TestCallersMistakes(t *testing.T) {
	f := open(t, "posix,self")
	e := newEnd(t, f, 2, 1000, 64)
	require.ErrorContains(t, e.Send(1, nil, nil), "not connected")
	require.ErrorContains(t, e.Connect([]byte("x"), 1), "address has 1 bytes")
	require.NoError(t, e.Connect(f.Address(), e.Key()))
	require.ErrorContains(t, e.Connect(f.Address(), e.Key()), "it is connected")
	require.ErrorContains(t, e.Send(1, nil, []m2n.Span{{Region: e.in.Memory, Off: 1999, Len: 2}}), "span 0 (offset 1999, length 2) is outside")
	require.Panics(t, func() { e.Refill(0) })
	for want, r := range map[string]m2n.FabricReceiver{
		"no memory":         {Slots: 1},
		"0 slots":           layout(e, 0, 10, 10),
		"do not fit":        {Memory: e.in.Memory, Slots: 3, Stride: 1000, SlotBytes: 1000},
		"2 slots of 9":      {Memory: e.in.Memory, Slots: 2, Stride: 8, SlotBytes: 9},
		"header of at most": {Memory: e.in.Memory, Slots: 1, HeaderBytes: -1},
	} {
		_, err := f.Open(r)
		require.ErrorContains(t, err, want)
	}
	_, err := Open(Config{Options: map[string]string{"TLS": "no-such-transport"}})
	require.ErrorContains(t, err, "ucx: opening: ")
	_, err = Open(Config{Options: map[string]string{"RNDV_THRESH": "many"}})
	require.ErrorContains(t, err, "RNDV_THRESH")
	_, err = Open(Config{Options: map[string]string{"TLS": "tcp", "NO_SUCH_THING": "1"}})
	require.ErrorContains(t, err, "NO_SUCH_THING")
}

// TestClosedFabric: everything says so.
func TestClosedFabric(t *testing.T) {
	f, err := Open(Config{Options: map[string]string{"TLS": "posix,self"}})
	require.NoError(t, err)
	e := newEnd(t, f.(*Fabric), 2, 1000, 64)
	require.NoError(t, e.Connect(f.Address(), e.Key()))
	require.NoError(t, f.Close(t.Context()))
	require.NoError(t, f.Close(t.Context()))
	require.ErrorIs(t, e.Send(1, nil, nil), errClosed)
	require.ErrorIs(t, e.Connect(f.Address(), 1), errClosed)
	require.ErrorIs(t, f.Register(e.in.Memory), errClosed)
	_, err = f.Open(e.in)
	require.ErrorIs(t, err, errClosed)
	_, err = f.Arm()
	require.ErrorIs(t, err, errClosed)
	e.Close()
	require.Zero(t, f.Progress(make([]m2n.FabricEvent, 1)))
}

// TestGoKeepsItsSignals: UCX installs handlers for SIGSEGV; Go's must win.
func TestGoKeepsItsSignals(t *testing.T) {
	open(t, "posix,self")
	require.Panics(t, func() {
		var e *end
		e.closed = true
	})
}

func TestSettings(t *testing.T) {
	env := func(name string) (string, bool) { return "rcache", name == "UCX_IB_REG_METHODS" }
	got := settings(map[string]string{"TLS": "tcp"}, env)
	require.NotContains(t, got, "IB_REG_METHODS")
	require.Equal(t, "n", got["RCACHE_ENABLE"])
	require.Equal(t, "tcp", got["TLS"])
	require.Equal(t, "odp", settings(map[string]string{"IB_REG_METHODS": "odp"}, env)["IB_REG_METHODS"])
}

// TestSmallEvents: events that the caller has no room for wait.
func TestSmallEvents(t *testing.T) {
	f := open(t, "posix,self")
	e := newEnd(t, f, 8, 1000, 64)
	require.NoError(t, e.Connect(f.Address(), e.Key()))
	for i := range 8 {
		require.NoError(t, e.Send(uint64(i), []byte{byte(i)}, nil))
	}
	var one [1]m2n.FabricEvent
	for deadline := time.Now().Add(patience); len(e.received) < 8 || len(e.sent) < 8; {
		require.True(t, time.Now().Before(deadline))
		if f.Progress(one[:]) == 1 {
			e.note(one[0])
		}
	}
	for i, ev := range e.received {
		require.Equal(t, []byte{byte(i)}, ev.Header)
	}
}
