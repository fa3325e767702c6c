package m2ntest_test

import (
	"io"
	"net"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"go.uber.org/goleak"

	"github.com/tandem-moe/tandem/m2n/m2ntest"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// connect returns both ends of a connection through a proxy.
func connect(t *testing.T) (p *m2ntest.Proxy, client, server net.Conn) {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	require.NoError(t, err)
	defer l.Close()
	p, err = m2ntest.NewProxy("tcp:" + l.Addr().String())
	require.NoError(t, err)
	t.Cleanup(p.Close)
	client, err = net.Dial("tcp", strings.TrimPrefix(p.Addr(), "tcp:"))
	require.NoError(t, err)
	t.Cleanup(func() { client.Close() })
	server, err = l.Accept()
	require.NoError(t, err)
	t.Cleanup(func() { server.Close() })
	return p, client, server
}

// hears reports whether b gets text within d.
func hears(t *testing.T, b net.Conn, text string, d time.Duration) bool {
	t.Helper()
	require.NoError(t, b.SetReadDeadline(time.Now().Add(d)))
	got := make([]byte, len(text))
	_, err := io.ReadFull(b, got)
	return err == nil && string(got) == text
}

func say(t *testing.T, a net.Conn, text string) {
	t.Helper()
	_, err := a.Write([]byte(text))
	require.NoError(t, err)
}

const soon, atLast = 50 * time.Millisecond, 5 * time.Second

// TestProxyMistreatsOneConnection: the fault is that of one among two.
func TestProxyMistreatsOneConnection(t *testing.T) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	require.NoError(t, err)
	defer l.Close()
	p, err := m2ntest.NewProxy(l.Addr().String())
	require.NoError(t, err)
	t.Cleanup(p.Close)
	var clients, servers []net.Conn
	for range 2 {
		client, err := net.Dial("tcp", strings.TrimPrefix(p.Addr(), "tcp:"))
		require.NoError(t, err)
		defer client.Close()
		server, err := l.Accept()
		require.NoError(t, err)
		defer server.Close()
		clients, servers = append(clients, client), append(servers, server)
	}
	p.SetOf(1, m2ntest.ToTarget, m2ntest.Drop)
	say(t, clients[1], "lost")
	say(t, clients[0], "hello")
	require.True(t, hears(t, servers[0], "hello", atLast))
	require.False(t, hears(t, servers[1], "lost", soon))
	p.SetOf(0, m2ntest.ToTarget, m2ntest.Corrupt)
	say(t, clients[0], "a")
	require.True(t, hears(t, servers[0], "`", atLast))
	say(t, clients[0], "a")
	require.True(t, hears(t, servers[0], "a", atLast), "once")
	p.Set(m2ntest.ToTarget, m2ntest.Pass)
	say(t, clients[1], "back")
	require.True(t, hears(t, servers[1], "back", atLast))
}

func TestProxyPassesAndDropsOneDirection(t *testing.T) {
	p, client, server := connect(t)
	say(t, client, "hello")
	require.True(t, hears(t, server, "hello", atLast))
	p.Set(m2ntest.ToTarget, m2ntest.Drop)
	say(t, client, "lost")
	require.False(t, hears(t, server, "lost", soon))
	say(t, server, "back")
	require.True(t, hears(t, client, "back", atLast))
	p.Set(m2ntest.ToTarget, m2ntest.Pass)
	say(t, client, "again")
	require.True(t, hears(t, server, "again", atLast))
	require.Eventually(t, func() bool { return p.Bytes(m2ntest.ToTarget) == 10 }, atLast, time.Millisecond)
}

func TestProxyKeepsTheEndFromASilentDirection(t *testing.T) {
	p, client, server := connect(t)
	p.SetBoth(m2ntest.Drop)
	client.Close()
	require.NoError(t, server.SetReadDeadline(time.Now().Add(soon)))
	_, err := server.Read(make([]byte, 1))
	var timeout net.Error
	require.ErrorAs(t, err, &timeout)
	require.True(t, timeout.Timeout())
}

func TestProxyHandsOnTheEnd(t *testing.T) {
	_, client, server := connect(t)
	say(t, client, "bye")
	client.Close()
	require.True(t, hears(t, server, "bye", atLast))
	_, err := server.Read(make([]byte, 1))
	require.ErrorIs(t, err, io.EOF)
}

func TestProxyStallsCorruptsDelaysAndCuts(t *testing.T) {
	p, client, server := connect(t)
	p.Set(m2ntest.ToTarget, m2ntest.Corrupt)
	say(t, client, "aaa")
	require.True(t, hears(t, server, "a`a", atLast))

	p.Delay(m2ntest.ToTarget, soon)
	begin := time.Now()
	say(t, client, "late")
	require.True(t, hears(t, server, "late", atLast))
	require.GreaterOrEqual(t, time.Since(begin), soon)

	p.Set(m2ntest.FromTarget, m2ntest.Stall)
	say(t, server, "x") // the read under way still takes it
	require.NoError(t, server.SetWriteDeadline(time.Now().Add(time.Second)))
	_, err := server.Write(make([]byte, 64<<20))
	require.Error(t, err, "a stalled direction fills up")

	p.Cut()
	_, err = client.Write(make([]byte, 1))
	for begin := time.Now(); err == nil && time.Since(begin) < atLast; {
		_, err = client.Write(make([]byte, 1))
	}
	require.Error(t, err)
}

// TestProxyBeginsAFaultInsideOfAStream: what comes before it passes, however it is
// cut, and other connections and the other direction are not touched.
func TestProxyBeginsAFaultInsideOfAStream(t *testing.T) {
	p, client, server := connect(t)
	p.SetAfter(0, m2ntest.ToTarget, 7, m2ntest.Drop)
	p.SetAfter(1, m2ntest.ToTarget, 0, m2ntest.Drop)
	say(t, client, "hello")
	require.True(t, hears(t, server, "hello", atLast))
	say(t, client, "world")
	require.True(t, hears(t, server, "wo", atLast))
	say(t, client, "lost")
	require.False(t, hears(t, server, "r", soon))
	say(t, server, "back")
	require.True(t, hears(t, client, "back", atLast))
	p.SetOf(0, m2ntest.ToTarget, m2ntest.Pass)
	say(t, client, "again")
	require.True(t, hears(t, server, "again", atLast))

	p.SetAfter(0, m2ntest.ToTarget, 2, m2ntest.Stall)
	say(t, client, "held")
	require.True(t, hears(t, server, "he", atLast))
	require.False(t, hears(t, server, "l", soon))
	p.SetOf(0, m2ntest.ToTarget, m2ntest.Pass)
	require.True(t, hears(t, server, "ld", atLast), "what was stalled is late, not lost")
}
