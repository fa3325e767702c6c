package m2n

import (
	"crypto/tls"
	"net"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

// TestRetransmits: the kernel is asked about TCP, below TLS too, and about
// nothing else. A connection that is closed does not tell.
func TestRetransmits(t *testing.T) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	require.NoError(t, err)
	defer l.Close()
	conn, err := net.Dial("tcp", l.Addr().String())
	require.NoError(t, err)
	for _, c := range []net.Conn{conn, tls.Client(conn, &tls.Config{MinVersion: tls.VersionTLS13})} {
		n, ok := retransmitsOn(c)
		require.True(t, ok)
		require.Zero(t, n)
	}
	require.NoError(t, conn.Close())
	_, ok := retransmitsOn(conn)
	require.False(t, ok)

	near, far := net.Pipe()
	defer near.Close()
	defer far.Close()
	_, ok = retransmitsOn(near)
	require.False(t, ok)
	_, ok = retransmitsOf(-1)
	require.False(t, ok)
}

// TestLaneAsksTheKernel while it is up, and no longer.
func TestLaneAsksTheKernel(t *testing.T) {
	a, b := tcpDuo(t, nil)
	_, err := a.Post("b", Message{})
	require.NoError(t, err)
	b.Release(pollKind(t, b, Received))
	require.NoError(t, pollKind(t, a, Sent).Err)
	p := a.allPairs()[0]
	p.mu.Lock()
	c := p.link.(*wireLink).control().conn.(interface{ retransmits() (uint64, bool) })
	p.mu.Unlock()
	n, ok := c.retransmits()
	require.True(t, ok)
	require.Zero(t, n, "loopback loses nothing")
	require.NoError(t, b.Close(t.Context()))
	pollKind(t, a, Lost)
	require.Eventually(t, func() bool {
		_, ok := c.retransmits()
		return !ok
	}, 5*time.Second, time.Millisecond)
	require.Zero(t, a.Stats()[0].Retransmits)
}
