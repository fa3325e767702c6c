package m2n

import (
	"bytes"
	"context"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/tandem-moe/tandem/m2n/internal/shm"
)

// tcpDuo is two endpoints that know each other by TCP.
func tcpDuo(t testing.TB, change func(*Config)) (a, b *Endpoint) { return wireDuo(t, "tcp", change) }

// shmDuo is two endpoints that share memory.
func shmDuo(t testing.TB, change func(*Config)) (a, b *Endpoint) { return wireDuo(t, "shm", change) }

func wireDuo(t testing.TB, scheme string, change func(*Config)) (a, b *Endpoint) {
	t.Helper()
	make := func(id string) (*Endpoint, string) {
		cfg := Config{ID: id, Epoch: 1}
		if change != nil {
			change(&cfg)
		}
		e := endpoint(t, cfg)
		return e, listen(t, e, scheme+":127.0.0.1:0")
	}
	a, atA := make("a")
	b, atB := make("b")
	require.NoError(t, a.SetPeer("b", atB, 1))
	require.NoError(t, b.SetPeer("a", atA, 1))
	return a, b
}

func TestTCPKeepsThePartition(t *testing.T) {
	a, b := tcpDuo(t, nil)
	data := bytes.Repeat([]byte("0123456789"), 50_000)
	region := a.Register(data, nil)
	token, err := a.Post("b", Message{Header: []byte("h"), Body: []Span{{region, 7, 300_000}, {region, 0, 0}, {region, 3, 5}}})
	require.NoError(t, err)
	sent := pollKind(t, a, Sent)
	require.Equal(t, token, sent.Token)
	require.NoError(t, sent.Err)

	c := pollKind(t, b, Received)
	require.Equal(t, "a", c.Peer)
	require.Equal(t, "h", string(c.Header))
	require.Len(t, c.Body, 3)
	require.True(t, bytes.Equal(data[7:300_007], c.Body[0].Bytes()))
	require.Empty(t, c.Body[1].Bytes())
	require.Equal(t, "34567", string(c.Body[2].Bytes()))
	require.Zero(t, c.Body[0].Off%shm.Stride(1))
	require.False(t, c.Arrived.Before(c.Posted))
	b.Release(c)

	s := a.Stats()[0]
	require.Equal(t, map[string]Traffic{"tcp": {1, 300_006}}, s.Sent)
	require.Equal(t, "tcp", s.Transport)
	require.Equal(t, uint64(1), s.WireTime.Count)
	require.Equal(t, s.Sent, b.Stats()[0].Received)
}

func TestTCPCloseSaysGoodbye(t *testing.T) {
	a, b := tcpDuo(t, nil)
	const messages = 50
	for range messages {
		_, err := a.Post("b", Message{Header: []byte("x")})
		require.NoError(t, err)
	}
	closed := make(chan error, 1)
	go func() { closed <- a.Close(context.Background()) }()
	for range messages {
		b.Release(pollKind(t, b, Received))
	}
	lost := pollKind(t, b, Lost)
	require.ErrorIs(t, lost.Err, ErrClosed)
	require.NoError(t, <-closed, "all was sent")
	for range messages {
		require.NoError(t, pollKind(t, a, Sent).Err)
	}
	require.ErrorIs(t, pollKind(t, a, Lost).Err, ErrClosed)
	_, err := a.Poll(t.Context())
	require.ErrorIs(t, err, ErrClosed)
	_, err = a.Post("b", Message{})
	require.ErrorIs(t, err, ErrClosed)
	_, err = b.Post("a", Message{})
	require.ErrorIs(t, err, ErrClosed)
}
