package poll

import (
	"crypto/tls"
	"net"
	"testing"

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
		n, ok := Retransmits(c)
		require.True(t, ok)
		require.Zero(t, n)
	}
	require.NoError(t, conn.Close())
	_, ok := Retransmits(conn)
	require.False(t, ok)

	near, far := net.Pipe()
	defer near.Close()
	defer far.Close()
	_, ok = Retransmits(near)
	require.False(t, ok)
	_, ok = retransmitsOf(-1)
	require.False(t, ok)
}
