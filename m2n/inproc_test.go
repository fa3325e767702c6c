package m2n

import (
	"context"
	"errors"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

// endpoint makes an endpoint that is closed at the end of the test.
func endpoint(t testing.TB, cfg Config) *Endpoint {
	t.Helper()
	e, err := NewEndpoint(cfg)
	require.NoError(t, err)
	t.Cleanup(func() { closeNow(e) })
	return e
}

// closeNow closes an endpoint without giving unsent messages any time.
func closeNow(e *Endpoint) {
	ctx, cancel := context.WithCancel(context.Background())
	cancel()
	_ = e.Close(ctx) // the error tells of messages that the test left behind
}

func listen(t testing.TB, e *Endpoint, addr string) string {
	t.Helper()
	bound, err := e.Listen(t.Context(), addr)
	require.NoError(t, err)
	return bound
}

// pollOne returns the next completion, or fails the test after a while.
func pollOne(t testing.TB, e *Endpoint) Completion {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), 2*atLast)
	defer cancel()
	c, err := e.Poll(ctx)
	require.NoError(t, err)
	return c
}

func pollKind(t testing.TB, e *Endpoint, k Kind) Completion {
	t.Helper()
	c := pollOne(t, e)
	require.Equal(t, k, c.Kind, "%+v", c)
	return c
}

// duo is two endpoints that know each other in one process.
func duo(t testing.TB, change func(*Config)) (a, b *Endpoint) {
	t.Helper()
	n := NewNetwork()
	make := func(id string) *Endpoint {
		cfg := Config{ID: id, Epoch: 1, Network: n}
		if change != nil {
			change(&cfg)
		}
		e := endpoint(t, cfg)
		listen(t, e, "inproc:"+id)
		return e
	}
	a, b = make("a"), make("b")
	require.NoError(t, a.SetPeer("b", "inproc:b", 1))
	require.NoError(t, b.SetPeer("a", "inproc:a", 1))
	return a, b
}

func TestInprocNeitherCopiesNorForgets(t *testing.T) {
	a, b := duo(t, nil)
	region := a.Register([]byte("hello world"), "mine")
	header := []byte("h")
	token, err := a.Post("b", Message{Header: header, Body: []Span{{region, 0, 5}, {region, 5, 0}, {region, 6, 5}}})
	require.NoError(t, err)
	header[0] = 'x' // Post has copied the header

	c := pollKind(t, b, Received)
	require.Equal(t, "a", c.Peer)
	require.Equal(t, "h", string(c.Header))
	require.Len(t, c.Body, 3)
	require.Same(t, region, c.Body[0].Region)
	require.Equal(t, "world", string(c.Body[2].Bytes()))
	require.Empty(t, c.Body[1].Bytes())

	_, ok := a.TryPoll()
	require.False(t, ok, "sent before the receiver has released")
	b.Release(c)
	b.Release(c)
	sent := pollKind(t, a, Sent)
	require.Equal(t, token, sent.Token)
	require.NoError(t, sent.Err)
	_, ok = a.TryPoll()
	require.False(t, ok, "a second release completes nothing")
}

func TestCreditBoundsWhatIsWithTheReceiver(t *testing.T) {
	a, b := duo(t, func(c *Config) { c.Slots, c.Queue = 2, 5 })
	for range 5 {
		_, err := a.Post("b", Message{})
		require.NoError(t, err)
	}
	_, err := a.Post("b", Message{})
	require.ErrorIs(t, err, ErrQueueFull)
	require.ErrorContains(t, err, `post to peer "b": queue is full: 5 messages wait for their completion, the limit is 5`)

	first := pollKind(t, b, Received)
	pollKind(t, b, Received)
	_, ok := b.TryPoll()
	require.False(t, ok, "a third message without a credit")
	b.Release(first)
	pollKind(t, b, Received)
	pollKind(t, a, Sent)
	_, err = a.Post("b", Message{})
	require.NoError(t, err, "room again")
	require.Equal(t, uint64(2), a.Stats()[0].CreditWaits)
}

// latch is an Event that the test completes.
type latch struct {
	once sync.Once
	ch   chan struct{}
	err  error
}

func newLatch() *latch { return &latch{ch: make(chan struct{})} }

func (g *latch) open(err error) { g.once.Do(func() { g.err = err; close(g.ch) }) }

func (g *latch) Wait(ctx context.Context) error {
	select {
	case <-g.ch:
		return g.err
	default:
	}
	select {
	case <-g.ch:
		return g.err
	case <-ctx.Done():
		return ctx.Err()
	}
}

func TestReadyHoldsItsPairAlone(t *testing.T) {
	n := NewNetwork()
	a := endpoint(t, Config{ID: "a", Network: n})
	for _, id := range []string{"b", "c"} {
		e := endpoint(t, Config{ID: id, Network: n})
		listen(t, e, "inproc:"+id)
		require.NoError(t, e.SetPeer("a", "", 0))
		require.NoError(t, a.SetPeer(id, "inproc:"+id, 0))
		defer func() {
			c := pollKind(t, e, Received)
			require.Equal(t, "first", string(c.Header))
		}()
	}
	g := newLatch()
	region := a.Register([]byte{0}, nil)
	_, err := a.Post("b", Message{Header: []byte("first"), Body: []Span{{region, 0, 1}}, Ready: g})
	require.NoError(t, err)
	_, err = a.Post("b", Message{Header: []byte("second")})
	require.NoError(t, err)
	_, err = a.Post("c", Message{Header: []byte("first")})
	require.NoError(t, err)
	require.Eventually(t, func() bool { return len(a.Stats()[1].Sent) > 0 }, 5*time.Second, time.Millisecond)
	require.Empty(t, a.Stats()[0].Sent, "sent before it was ready")
	g.open(nil)
}

func TestFailedEventLosesThePair(t *testing.T) {
	a, b := duo(t, nil)
	g := newLatch()
	broken := errors.New("device fell off the bus")
	token, err := a.Post("b", Message{Ready: g})
	require.NoError(t, err)
	g.open(broken)
	sent := pollKind(t, a, Sent)
	require.Equal(t, token, sent.Token)
	require.ErrorIs(t, sent.Err, broken)
	lost := pollKind(t, a, Lost)
	require.ErrorIs(t, lost.Err, broken)
	require.ErrorContains(t, lost.Err, `peer "b" (epoch 1) is lost: waiting for the event of message 1`)
	require.ErrorContains(t, pollKind(t, b, Lost).Err, "device fell off the bus")
	_, err = a.Post("b", Message{})
	require.ErrorIs(t, err, broken)
}
