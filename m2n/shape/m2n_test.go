package shape_test

import (
	"context"
	"fmt"
	"slices"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/tandem-moe/tandem/m2n"
	"github.com/tandem-moe/tandem/m2n/shape"
)

// fabric is endpoints of package m2n, each on a host of its own, all of them
// acquainted.
type fabric struct {
	*shape.Network
	t         *testing.T
	endpoints map[string]*m2n.Endpoint
}

const (
	rate        = 100e6 // bytes per second
	latency     = 20 * time.Microsecond
	peerTimeout = time.Second
)

// newFabric is to be closed within the test's bubble.
func newFabric(t *testing.T, names ...string) *fabric {
	n, err := shape.New(shape.Config{Latency: latency, Bubble: true})
	require.NoError(t, err)
	f := &fabric{Network: n, t: t, endpoints: map[string]*m2n.Endpoint{}}
	addrs := map[string]string{}
	for _, name := range names {
		require.NoError(t, n.Host(name, shape.NIC{Egress: rate, Ingress: rate}))
		e, err := m2n.NewEndpoint(m2n.Config{ID: name, Dial: n.Dial(name), PeerTimeout: peerTimeout})
		require.NoError(t, err)
		l, err := n.Listener(name)
		require.NoError(t, err)
		require.NoError(t, e.Serve(l))
		f.endpoints[name], addrs[name] = e, "tcp:"+l.Addr().String()
	}
	for _, a := range names {
		for _, b := range names {
			if a != b {
				require.NoError(t, f.endpoints[a].SetPeer(b, addrs[b], 0))
			}
		}
	}
	return f
}

func (f *fabric) close() {
	ctx, cancel := context.WithCancel(context.Background())
	cancel() // what is still under way is nobody's concern
	for _, e := range f.endpoints {
		_ = e.Close(ctx) // it says what was not sent
	}
	require.NoError(f.t, f.Network.Close())
}

// poll returns the next completion of a kind; another kind is an error, but for
// Sent.
func (f *fabric) poll(name string, kind m2n.Kind) (m2n.Completion, error) {
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()
	for {
		c, err := f.endpoints[name].Poll(ctx)
		switch {
		case err != nil:
			return c, err
		case c.Kind == kind:
			return c, nil
		case c.Kind != m2n.Sent:
			return c, fmt.Errorf("%s polled %v (%w), not %v", name, c.Kind, c.Err, kind)
		}
	}
}

// message has a body of so many bytes.
func (f *fabric) message(name string, bytes int) m2n.Message {
	r := f.endpoints[name].Register(make([]byte, bytes), nil)
	return m2n.Message{Body: []m2n.Span{{Region: r, Len: bytes}}}
}

// roundTrip is the time of a message and its answer. The peer answers by pong.
func (f *fabric) roundTrip(from, to string) (time.Duration, error) {
	begin := time.Now()
	if _, err := f.endpoints[from].Post(to, m2n.Message{Header: []byte("ping")}); err != nil {
		return 0, err
	}
	c, err := f.poll(from, m2n.Received)
	f.endpoints[from].Release(c)
	return time.Since(begin), err
}

// pong answers so many messages.
func (f *fabric) pong(name string, times int) error {
	for range times {
		c, err := f.poll(name, m2n.Received)
		if err != nil {
			return err
		}
		f.endpoints[name].Release(c)
		if _, err := f.endpoints[name].Post(c.Peer, m2n.Message{}); err != nil {
			return err
		}
	}
	return nil
}

// TestIncastBesideAnIdlePair: eight senders saturate one receiver. Two others,
// of which one is a sender of the incast as well, exchange messages as if nobody
// else were there, but for that sender's own packets.
func TestIncastBesideAnIdlePair(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		senders := []string{"s0", "s1", "s2", "s3", "s4", "s5", "s6", "s7"}
		f := newFabric(t, slices.Concat(senders, []string{"hot", "idle0", "idle1"})...)
		defer f.close()
		const messages, bytes = 20, 256 << 10
		for _, s := range senders {
			m := f.message(s, bytes)
			for range messages {
				_, err := f.endpoints[s].Post("hot", m)
				require.NoError(t, err)
			}
		}
		begin := time.Now()
		var all sync.WaitGroup
		all.Go(func() {
			if err := f.pong("idle1", 100); err != nil {
				t.Error(err)
			}
		})
		var times []time.Duration
		all.Go(func() {
			for range 100 {
				d, err := f.roundTrip("idle0", "idle1")
				if err != nil {
					t.Error(err)
					return
				}
				times = append(times, d)
				time.Sleep(time.Millisecond)
			}
		})
		got := map[string]int{}
		for range messages * len(senders) {
			c, err := f.poll("hot", m2n.Received)
			require.NoError(t, err)
			got[c.Peer]++
			f.endpoints["hot"].Release(c)
			least, most := spread(got, len(senders))
			require.LessOrEqual(t, most-least, 2, "the senders share the receiver: %v", got)
		}
		took := time.Since(begin)
		all.Wait()
		ideal := time.Duration(float64(messages*bytes*len(senders)) / rate * 1e9)
		t.Logf("the incast took %v; its bytes alone take %v. The idle pair's round trip was %v at most", took, ideal, slices.Max(times[1:]))
		require.Greater(t, took, ideal)
		require.Less(t, took, ideal*105/100)
		require.Less(t, slices.Max(times[1:]), 2*latency+50*time.Microsecond, "the first one connects; the others wait for nobody")
	})
}

// spread is the least and the most that n senders have delivered.
func spread(got map[string]int, n int) (least, most int) {
	for _, k := range got {
		most = max(most, k)
	}
	if len(got) < n {
		return 0, most
	}
	least = most
	for _, k := range got {
		least = min(least, k)
	}
	return least, most
}

// TestCutHostIsLostInTime: at its peers and nowhere else, and not before
// PeerTimeout is over, since silence is all there is to hear.
func TestCutHostIsLostInTime(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := newFabric(t, "a", "b", "gone")
		defer f.close()
		var pongs sync.WaitGroup
		for _, peer := range []string{"b", "gone"} {
			pongs.Go(func() {
				if err := f.pong(peer, 1); err != nil {
					t.Error(err)
				}
			})
			_, err := f.roundTrip("a", peer)
			require.NoError(t, err)
		}
		pongs.Wait()
		require.NoError(t, f.Cut("gone"))
		begin := time.Now()
		for _, end := range []string{"a", "gone"} {
			c, err := f.poll(end, m2n.Lost)
			require.NoError(t, err)
			require.ErrorIs(t, c.Err, m2n.ErrSilent)
			require.GreaterOrEqual(t, time.Since(begin), peerTimeout*3/4)
			require.Less(t, time.Since(begin), peerTimeout*3/2)
		}
		pongs.Go(func() {
			if err := f.pong("b", 1); err != nil {
				t.Error(err)
			}
		})
		_, err := f.roundTrip("a", "b")
		require.NoError(t, err, "the other pair is not touched")
		pongs.Wait()
	})
}

// TestShortStallIsNoLoss: a direction that is silent for less than PeerTimeout is
// late, and that is all.
func TestShortStallIsNoLoss(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := newFabric(t, "a", "b")
		defer f.close()
		var pongs sync.WaitGroup
		pongs.Go(func() {
			if err := f.pong("b", 2); err != nil {
				t.Error(err)
			}
		})
		_, err := f.roundTrip("a", "b")
		require.NoError(t, err)
		require.NoError(t, f.Stall("a", "b"))
		time.AfterFunc(peerTimeout/2, func() {
			if err := f.Heal("a"); err != nil {
				t.Error(err)
			}
		})
		took, err := f.roundTrip("a", "b")
		require.NoError(t, err)
		require.InDelta(t, (peerTimeout / 2).Seconds(), took.Seconds(), 0.001)
		pongs.Wait()
	})
}

// TestResetIsLostAtOnce, at both ends.
func TestResetIsLostAtOnce(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := newFabric(t, "a", "b")
		defer f.close()
		var pongs sync.WaitGroup
		pongs.Go(func() {
			if err := f.pong("b", 1); err != nil {
				t.Error(err)
			}
		})
		_, err := f.roundTrip("a", "b")
		require.NoError(t, err)
		pongs.Wait()
		require.NoError(t, f.Reset("a", "b"))
		begin := time.Now()
		for _, end := range []string{"a", "b"} {
			c, err := f.poll(end, m2n.Lost)
			require.NoError(t, err)
			var lost *m2n.LostError
			require.ErrorAs(t, c.Err, &lost)
		}
		require.Less(t, time.Since(begin), 10*time.Millisecond)
	})
}
