package m2n

import (
	"context"
	"fmt"
	"math/rand/v2"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

// TestChaos: endpoints post to, forget, restart and close each other at random,
// each by its own view of the others' epochs. The test does not assert which messages
// arrive, but of each endpoint that every accepted message is reported once, that a pair
// is lost once, that nothing of it comes after the loss, and that Close returns.
func TestChaos(t *testing.T) {
	for _, scheme := range []string{"inproc", "tcp", "tls", "shm"} {
		t.Run(scheme, func(t *testing.T) {
			pace := slowness * time.Millisecond
			if scheme == "tls" {
				pace *= 2 // a TLS handshake takes longer
			}
			c := &chaos{t: t, scheme: scheme, network: NewNetwork(), pace: pace, until: time.Now().Add(500 * pace)}
			var all sync.WaitGroup
			for i := range c.members {
				all.Go(func() { c.live(i) })
			}
			all.Wait()
			require.NotZero(t, c.received.Load(), "some messages arrive in all this")
		})
	}
}

type chaos struct {
	t        *testing.T
	scheme   string
	network  *Network
	pace     time.Duration // a millisecond, or more where all is slower
	until    time.Time
	received atomic.Int64

	mu      sync.Mutex
	members [4]struct {
		addr  string
		epoch uint64
	}
}

// live runs one member: one incarnation after the other.
func (c *chaos) live(i int) {
	for epoch := uint64(1); time.Now().Before(c.until); epoch++ {
		cfg := Config{ID: fmt.Sprint(i), Epoch: epoch, Network: c.network, Slots: 2, SlotBytes: 100,
			PeerTimeout: time.Second, DialTimeout: 200 * c.pace, Connections: 1 + rand.IntN(4)}
		addr := c.scheme + ":127.0.0.1:0"
		switch c.scheme {
		case "inproc":
			addr = fmt.Sprintf("inproc:%d.%d", i, epoch)
		case "tls":
			secured(&cfg)
			addr = "tcp:127.0.0.1:0"
		}
		e, err := NewEndpoint(cfg)
		require.NoError(c.t, err)
		addr, err = e.Listen(c.t.Context(), addr)
		require.NoError(c.t, err)
		c.mu.Lock()
		c.members[i].addr, c.members[i].epoch = addr, epoch
		c.mu.Unlock()
		c.incarnation(i, e)
	}
}

// incarnation acts at random for a while, and closes in the middle of it.
func (c *chaos) incarnation(i int, e *Endpoint) {
	var posted atomic.Int64
	ctx, cancel := context.WithCancel(context.Background())
	var workers sync.WaitGroup
	for range 2 {
		workers.Go(func() { c.act(ctx, i, e, &posted) })
	}
	sent := make(chan int64, 1)
	go func() { sent <- c.consume(i, e) }()
	pause := time.NewTimer(20*c.pace + rand.N(150*c.pace))
	<-pause.C
	began := time.Now()
	_ = e.Close(context.Background()) // the error tells of messages that did not go out
	require.Less(c.t, time.Since(began), slowness*4*time.Second)
	cancel()
	workers.Wait()
	c.awaitReleases(e, posted.Load()-<-sent)
}

func (c *chaos) act(ctx context.Context, i int, e *Endpoint, posted *atomic.Int64) {
	region := e.Register(zeros(100), nil)
	for ctx.Err() == nil {
		peer := rand.IntN(len(c.members))
		if peer == i {
			continue
		}
		switch rand.IntN(40) {
		case 0:
			e.RemovePeer(fmt.Sprint(peer))
		case 1, 2, 3, 4, 5:
			c.mu.Lock()
			m := c.members[peer]
			c.mu.Unlock()
			_ = e.SetPeer(fmt.Sprint(peer), m.addr, m.epoch) // fails once closed
		case 6:
			_ = e.Stats()
		default:
			if _, err := e.Post(fmt.Sprint(peer), Message{Body: []Span{{region, 0, rand.IntN(101)}}}); err == nil {
				posted.Add(1)
			}
			time.Sleep(10 * time.Microsecond)
		}
	}
}

// consume polls until the endpoint is closed, and counts the Sent.
func (c *chaos) consume(i int, e *Endpoint) (sent int64) {
	lost := map[*pair]bool{}
	tokens := map[uint64]bool{}
	for {
		d, err := e.Poll(context.Background())
		if err != nil {
			return sent
		}
		switch d.Kind {
		case Sent:
			if tokens[d.Token] {
				c.t.Errorf("%d: token %d twice", i, d.Token)
			}
			tokens[d.Token] = true
			sent++
		case Lost:
			if lost[d.pair] {
				c.t.Errorf("%d: %s lost twice", i, d.Peer)
			}
			lost[d.pair] = true
		case Received:
			if lost[d.pair] {
				c.t.Errorf("%d: a message of %s after its loss", i, d.Peer)
			}
			c.received.Add(1)
			e.Release(d)
		}
	}
}

// awaitReleases waits for the messages that peers in this process have yet to
// release when the endpoint is closed.
func (c *chaos) awaitReleases(e *Endpoint, n int64) {
	require.Eventually(c.t, func() bool {
		for d, ok := e.TryPoll(); ok; d, ok = e.TryPoll() {
			if d.Kind == Sent {
				n--
			}
		}
		return n == 0
	}, 20*time.Second, time.Millisecond, "messages accepted and not reported")
}
