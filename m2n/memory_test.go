package m2n

import (
	"errors"
	"runtime"
	"sync/atomic"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/tandem-moe/tandem/m2n/internal/wire"
)

// TestReceiveMemoryGoesBack: Alloc is called once per connection, Free when the
// pair is lost and the last message released.
func TestReceiveMemoryGoesBack(t *testing.T) {
	var taken, freed atomic.Int64
	a, b := tcpDuo(t, func(c *Config) {
		c.SlotBytes, c.Slots = 100, 3
		if c.ID == "b" {
			c.Alloc = func(n int) (*Region, error) {
				taken.Add(int64(n))
				return &Region{Bytes: make([]byte, n), User: "device"}, nil
			}
			c.Free = func(r *Region) { freed.Add(int64(len(r.Bytes))) }
		}
	})
	region := a.Register([]byte("abc"), nil)
	for range 2 {
		_, err := a.Post("b", Message{Body: []Span{{region, 0, 3}}})
		require.NoError(t, err)
	}
	first, second := pollKind(t, b, Received), pollKind(t, b, Received)
	require.EqualValues(t, 3*128, taken.Load())
	require.Equal(t, "device", first.Body[0].Region.User)
	require.NotEqual(t, first.Body[0].Off, second.Body[0].Off)
	closeNow(a)
	pollKind(t, b, Lost)
	require.Equal(t, "abc", string(first.Body[0].Bytes()), "still the receiver's")
	b.Release(first)
	require.Zero(t, freed.Load())
	b.Release(second)
	require.Eventually(t, func() bool { return freed.Load() == taken.Load() }, atLast, time.Millisecond)
}

func TestAllocThatFails(t *testing.T) {
	for name, alloc := range map[string]func(int) (*Region, error){
		"out of device memory": func(int) (*Region, error) { return nil, errors.New("out of device memory") },
		"asked for":            func(n int) (*Region, error) { return &Region{Bytes: make([]byte, n-1)}, nil },
	} {
		t.Run(name, func(t *testing.T) {
			var live atomic.Int64
			a, b := tcpDuo(t, func(c *Config) {
				if c.ID == "b" {
					c.Alloc = func(n int) (*Region, error) {
						r, err := alloc(n)
						if err == nil {
							live.Add(1)
						}
						return r, err
					}
					c.Free = func(*Region) { live.Add(-1) }
				}
			})
			_, err := a.Post("b", Message{})
			require.NoError(t, err)
			require.ErrorContains(t, pollKind(t, a, Sent).Err, name, "the reason travels to who dials")

			_, err = b.Post("a", Message{})
			if err == nil { // b dials, and cannot allocate its own memory
				require.ErrorContains(t, pollKind(t, b, Sent).Err, name)
			}
			closeNow(b)
			require.Zero(t, live.Load(), "memory that was refused goes back")
		})
	}
}

// TestManyIncarnations: a peer that connects and dies many times leaves neither goroutines
// (goleak) nor memory behind.
func TestManyIncarnations(t *testing.T) {
	a := endpoint(t, Config{ID: "a", SlotBytes: 1 << 20})
	at := listen(t, a, "tcp:127.0.0.1:0")
	incarnation := func(epoch uint64) {
		b, err := NewEndpoint(Config{ID: "b", Epoch: epoch, SlotBytes: 1 << 20})
		require.NoError(t, err)
		addr := listen(t, b, "tcp:127.0.0.1:0")
		require.NoError(t, a.SetPeer("b", addr, epoch))
		require.NoError(t, b.SetPeer("a", at, 0))
		if epoch%2 == 0 {
			transfer(t, a, b)
		} else {
			transfer(t, b, a)
		}
		closeNow(b)
		requireLost(t, a, "b")
	}
	var before, after runtime.MemStats
	const incarnations = 40 // TestSoak has many more, with smaller windows
	for epoch := range uint64(incarnations) {
		incarnation(epoch + 1)
		if epoch == incarnations/4 {
			runtime.GC()
			runtime.ReadMemStats(&before)
		}
	}
	runtime.GC()
	runtime.ReadMemStats(&after)
	require.Less(t, int64(after.HeapAlloc)-int64(before.HeapAlloc), int64(16<<20))
	s := a.Stats()[0]
	require.Equal(t, uint64(incarnations), s.Connects)
	require.Equal(t, uint64(incarnations), s.Losses)
}

func TestHistogram(t *testing.T) {
	var h histogram
	for _, d := range []time.Duration{0, 1, 2, 3, 1000, time.Second} {
		h.add(d)
	}
	h.add(-time.Second) // clocks may step
	s := h.snapshot()
	require.EqualValues(t, 7, s.Count)
	require.Equal(t, []uint64{2, 1, 2}, s.Buckets[:3])
	require.EqualValues(t, 4, s.Quantile(0.5))
	require.EqualValues(t, 1<<30, s.Quantile(1))
	require.EqualValues(t, (1006+time.Second)/7, s.Mean())
	require.Zero(t, Histogram{}.Mean())
	require.Zero(t, Histogram{}.Quantile(0.5))
}

// memoryMeter counts the receive memory of an endpoint's connections.
type memoryMeter struct{ taken, freed atomic.Int64 }

// watch has c count in m, with memory of its own and with memory that is shared.
func (m *memoryMeter) watch(c *Config) {
	c.Alloc = func(n int) (*Region, error) { return m.take(make([]byte, n)) }
	c.Adopt = m.take
	c.Free = func(*Region) { m.freed.Add(1) }
}

func (m *memoryMeter) take(b []byte) (*Region, error) {
	m.taken.Add(1)
	return &Region{Bytes: b}, nil
}

// requireFreed waits until no more than live of the windows that were taken are not freed.
func (m *memoryMeter) requireFreed(t *testing.T, live int64) {
	t.Helper()
	require.Greater(t, m.taken.Load(), live)
	require.Eventually(t, func() bool { return m.taken.Load()-m.freed.Load() == live }, atLast, time.Millisecond,
		"receive memory of a lost pair is not freed")
}

// TestReceiveMemoryGoesBackMidMessage: the receive memory of a peer goes back to its owner
// when the pair is lost while a message holds a slot that the consumer has not seen.
func TestReceiveMemoryGoesBackMidMessage(t *testing.T) {
	const body = 60_000
	for name, end := range map[string]func(e *Endpoint, x *stranger, frame []byte){
		"cut in the body": func(e *Endpoint, x *stranger, frame []byte) {
			x.writeSome(frame[:len(frame)/2])
			x.awaitHeld(e, 1)
			x.conn.Close()
		},
		"cut in the checksum": func(e *Endpoint, x *stranger, frame []byte) {
			x.writeSome(frame[:len(frame)-1])
			x.awaitHeld(e, 1)
			x.conn.Close()
		},
		"this end gives the pair up": func(e *Endpoint, x *stranger, frame []byte) {
			x.writeSome(frame[:len(frame)/2])
			x.awaitHeld(e, 1)
			e.RemovePeer("x")
			x.conn.Close()
		},
		"wrong checksum": func(_ *Endpoint, x *stranger, frame []byte) {
			frame[len(frame)-1] ^= 1
			x.writeSome(frame)
		},
		"number out of order": func(_ *Endpoint, x *stranger, _ []byte) {
			x.number = 7
			x.send(wire.Frame{Kind: wire.Data, Epoch: 3, Flags: wire.FlagBodySum, Body: 1, Lengths: []int{1}}, "!")
		},
	} {
		t.Run(name, func(t *testing.T) {
			var memory memoryMeter
			cfg := Config{ID: "e", Slots: 2, SlotBytes: body}
			memory.watch(&cfg)
			e := endpoint(t, cfg)
			addr := listen(t, e, "tcp:127.0.0.1:0")
			require.NoError(t, e.SetPeer("x", "", 3))
			x := dialAs(t, addr, pairID{From: "x", FromEpoch: 3, To: "e"}).welcomed()
			end(e, x, encode(wire.Frame{
				Kind: wire.Data, Epoch: 3, Seq: 1, Number: 1, Flags: wire.FlagBodySum, Body: body, Lengths: []int{body},
			}, zeros(body)))
			requireLost(t, e, "x")
			memory.requireFreed(t, 0)
		})
	}
}

// writeSome writes bytes that need not be a whole frame.
func (s *stranger) writeSome(b []byte) {
	s.t.Helper()
	_, err := s.conn.Write(b)
	require.NoError(s.t, err)
}

// awaitHeld waits until n slots of e's window for the stranger hold messages.
func (s *stranger) awaitHeld(e *Endpoint, n int) {
	s.t.Helper()
	p, err := e.peer(s.ep.cfg.ID)
	require.NoError(s.t, err)
	require.Eventually(s.t, func() bool { return p.upLink() != nil }, atLast, time.Millisecond)
	window := p.upLink().(*wireLink).window
	require.Eventually(s.t, func() bool {
		window.mu.Lock()
		defer window.mu.Unlock()
		return window.held == n
	}, atLast, time.Millisecond)
}
