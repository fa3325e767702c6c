package m2n

import (
	"net"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

// TestStatsOfMessages: on each transport every message is in each histogram of
// its end, with times that add up, and a wait for a credit is counted.
func TestStatsOfMessages(t *testing.T) {
	for scheme, ends := range map[string]func(testing.TB, func(*Config)) (a, b *Endpoint){"inproc": duo, "shm": shmDuo, "tcp": tcpDuo} {
		t.Run(scheme, func(t *testing.T) {
			const messages = 5
			a, b := ends(t, func(c *Config) { c.Slots = 2 })
			for range messages {
				_, err := a.Post("b", Message{Header: []byte("x")})
				require.NoError(t, err)
			}
			for range messages {
				c := pollKind(t, b, Received)
				time.Sleep(time.Millisecond)
				b.Release(c)
			}
			for range messages {
				require.NoError(t, pollKind(t, a, Sent).Err)
			}
			sent, received := a.Stats()[0], b.Stats()[0]
			require.Equal(t, "a", sent.Endpoint)
			require.Equal(t, "b", received.Endpoint)
			require.Equal(t, map[string]Traffic{scheme: {messages, messages}}, sent.Sent)
			require.Equal(t, sent.Sent, received.Received)
			for name, h := range map[string]Histogram{"queue": sent.QueueTime, "wire": sent.WireTime, "total": sent.TotalTime, "receive": received.ReceiveTime} {
				require.EqualValues(t, messages, h.Count, name)
			}
			require.InDelta(t, sent.TotalTime.Sum, sent.QueueTime.Sum+sent.WireTime.Sum, float64(messages))
			require.GreaterOrEqual(t, sent.CreditWaits, uint64(1))
			require.Equal(t, sent.CreditWaits, sent.CreditTime.Count)
			require.GreaterOrEqual(t, sent.QueueTime.Sum, sent.CreditTime.Sum)
			require.GreaterOrEqual(t, sent.CreditTime.Sum, time.Millisecond)
		})
	}
}

// TestStatsOfRetries: failed dial attempts are counted until the peer is there.
func TestStatsOfRetries(t *testing.T) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	require.NoError(t, err)
	addr := "tcp:" + l.Addr().String()
	require.NoError(t, l.Close())
	a := endpoint(t, Config{ID: "a"})
	require.NoError(t, a.SetPeer("b", addr, 0))
	_, err = a.Post("b", Message{})
	require.NoError(t, err)
	require.Eventually(t, func() bool { return a.Stats()[0].Retries >= 2 }, 5*time.Second, time.Millisecond)
	b := endpoint(t, Config{ID: "b"})
	require.NoError(t, b.SetPeer("a", "", 0))
	listen(t, b, addr)
	b.Release(pollKind(t, b, Received))
	require.NoError(t, pollKind(t, a, Sent).Err)
	require.EqualValues(t, 1, a.Stats()[0].Connects)
}
