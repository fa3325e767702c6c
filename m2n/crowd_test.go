//go:build linux

package m2n

import (
	"context"
	"fmt"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"golang.org/x/sys/unix"
)

// TestCrowd: a thousand peers connect to one endpoint at the same moment. Each sends a
// message and gets an answer; no connection is refused.
func TestCrowd(t *testing.T) {
	for _, tc := range []struct {
		scheme      string
		descriptors int // of a pair and its peer, both ends being in this process
	}{
		{"tcp", 2*2 + 3}, // a socket for each connection and end; an epoll instance, an eventfd and a page of doorbells
		{"shm", 2*5 + 3}, // of each end a socket, its ring, and the other's ring, page and eventfd
	} {
		t.Run(tc.scheme, func(t *testing.T) {
			peers := 1000
			if testing.Short() {
				peers = 100
			}
			requireDescriptors(t, peers*tc.descriptors+100)
			begin := time.Now()
			c := newCrowd(t, tc.scheme, peers)
			c.meet(t)
			t.Logf("%d peers in %v", peers, time.Since(begin).Round(time.Millisecond))
			c.requireUp(t)
		})
	}
}

func requireDescriptors(t *testing.T, n int) {
	t.Helper()
	var limit unix.Rlimit
	require.NoError(t, unix.Getrlimit(unix.RLIMIT_NOFILE, &limit))
	if need := uint64(openFDs(t) + n); limit.Cur < need {
		t.Skipf("%d descriptors are wanted, the limit is %d (ulimit -n)", need, limit.Cur)
	}
}

// crowd is an endpoint and its peers.
type crowd struct {
	hub   *Endpoint
	peers []*Endpoint
}

// crowdTimeout is generous: all handshakes share this machine's cores.
const crowdTimeout = 30 * time.Second

func newCrowd(t *testing.T, scheme string, peers int) *crowd {
	t.Helper()
	member := func(id string) *Endpoint {
		e, err := NewEndpoint(Config{ID: id, SlotBytes: 64, Slots: 1, HeaderBytes: 64, PeerTimeout: crowdTimeout, DialTimeout: crowdTimeout})
		require.NoError(t, err)
		return e
	}
	c := &crowd{hub: member("hub")}
	t.Cleanup(c.leave)
	addr := listen(t, c.hub, scheme+":127.0.0.1:0")
	for i := range peers {
		p := member(fmt.Sprint(i))
		require.NoError(t, p.SetPeer("hub", addr, 0))
		require.NoError(t, c.hub.SetPeer(p.cfg.ID, "", 0))
		c.peers = append(c.peers, p)
	}
	return c
}

// meet has all peers post at once, and waits for the answers.
func (c *crowd) meet(t *testing.T) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), crowdTimeout)
	defer cancel()
	var answering sync.WaitGroup
	answering.Go(func() { c.answer(ctx, t) })
	for _, p := range c.peers {
		_, err := p.Post("hub", Message{Header: []byte(p.cfg.ID)})
		require.NoError(t, err)
	}
	waits := make(map[*Endpoint]bool)
	for _, p := range c.peers {
		waits[p] = true
	}
	for len(waits) > 0 && ctx.Err() == nil {
		for p := range waits {
			if c.answered(t, p) {
				delete(waits, p)
			}
		}
		time.Sleep(time.Millisecond)
	}
	answering.Wait()
	require.Empty(t, waits, "peers without an answer")
}

// answer sends back one message of each peer.
func (c *crowd) answer(ctx context.Context, t *testing.T) {
	for heard := 0; heard < len(c.peers); {
		d, err := c.hub.Poll(ctx)
		if err != nil || d.Err != nil {
			t.Errorf("after %d of %d peers: %+v, %v", heard, len(c.peers), d, err)
			return
		}
		if d.Kind != Received {
			continue
		}
		heard++
		c.hub.Release(d)
		if _, err := c.hub.Post(d.Peer, Message{Header: d.Header}); err != nil {
			t.Errorf("answer: %v", err)
		}
	}
}

// answered reports whether the peer has its answer. It does not wait in Poll, which would
// cost a thread for each peer.
func (c *crowd) answered(t *testing.T, p *Endpoint) bool {
	t.Helper()
	for d, ok := p.TryPoll(); ok; d, ok = p.TryPoll() {
		require.NoError(t, d.Err)
		if d.Kind == Received {
			require.Equal(t, p.cfg.ID, string(d.Header))
			p.Release(d)
			return true
		}
	}
	return false
}

// requireUp: each pair is up since its first dial attempt.
func (c *crowd) requireUp(t *testing.T) {
	t.Helper()
	for _, s := range c.hub.Stats() {
		require.Equal(t, uint64(1), s.Connects, s.Peer)
		require.Equal(t, "up", s.State, s.Peer)
	}
}

// leave closes the peers, some at once, and then the hub.
func (c *crowd) leave() {
	peers := make(chan *Endpoint)
	var closing sync.WaitGroup
	for range 32 {
		closing.Go(func() {
			for e := range peers {
				closeNow(e)
			}
		})
	}
	for _, e := range c.peers {
		peers <- e
	}
	close(peers)
	closing.Wait()
	closeNow(c.hub)
}
