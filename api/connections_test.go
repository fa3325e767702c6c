package api

import (
	"bytes"
	"errors"
	"io"
	"log/slog"
	"net"
	"net/netip"
	"syscall"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/tandem-moe/tandem/internal/ratelog"
)

// TestIdlest: whose connection is dropped, and which.
func TestIdlest(t *testing.T) {
	many, few := netip.MustParsePrefix("10.0.0.1/32"), netip.MustParsePrefix("10.0.0.2/32")
	held := map[netip.Prefix]int{many: 3, few: 1}
	at := func(seconds int64) time.Time { return time.Unix(seconds, 0) }
	oldest := &connection{client: few, since: at(1)}
	middle := &connection{client: many, phase: receiving, since: at(2)}
	latest := &connection{client: many, since: at(3)}
	busy := &connection{client: many, phase: working, since: at(0)}
	for _, c := range []struct {
		name string
		all  []*connection
		want *connection
	}{
		{"none", nil, nil},
		{"all work", []*connection{busy}, nil},
		{"of the client with most, the one that has waited for longest", []*connection{oldest, latest, middle, busy},
			middle},
		{"another's only where the client with most works", []*connection{busy, oldest}, oldest},
		{"a body that trickles is no better than silence", []*connection{latest, middle}, middle},
	} {
		t.Run(c.name, func(t *testing.T) { require.Same(t, c.want, idlest(c.all, held)) })
	}
}

func TestShares(t *testing.T) {
	for address, want := range map[string]string{
		"192.0.2.7": "192.0.2.7/32", "::ffff:192.0.2.7": "192.0.2.7/32", "2001:db8:1:2:3::4": "2001:db8:1:2::/64",
		"fe80::1%eth0": "fe80::/64",
	} {
		ip := netip.MustParseAddr(address)
		got := clientOf(&net.TCPAddr{IP: ip.AsSlice(), Zone: ip.Zone(), Port: 80})
		require.Equal(t, want, got.String())
	}
	require.Equal(t, netip.Prefix{}, clientOf(&net.UnixAddr{}))
}

// pipes is a listener that gives out what it is told to.
type pipes struct {
	results chan any // a net.Conn or an error
}

func (p pipes) Accept() (net.Conn, error) {
	switch r := (<-p.results).(type) {
	case net.Conn:
		return r, nil
	case error:
		return nil, r
	default:
		return nil, net.ErrClosed
	}
}

func (pipes) Close() error   { return nil }
func (pipes) Addr() net.Addr { return &net.TCPAddr{} }

// pipe is a connection, and the client's end of it.
func pipe(t *testing.T) (server, client net.Conn) {
	t.Helper()
	server, client = net.Pipe()
	t.Cleanup(func() {
		_ = server.Close()
		_ = client.Close()
	})
	return server, client
}

// TestAcceptErrors: errors that pass are survived and told of; a process with
// too many open files closes the idlest connection; others end the listener.
func TestAcceptErrors(t *testing.T) {
	var log bytes.Buffer
	results := make(chan any, 64)
	l := newListener(pipes{results}, 8, ratelog.New(slog.New(slog.NewTextHandler(&log, nil))))
	defer l.Close()
	first, client := pipe(t)
	results <- first
	_, err := l.Accept()
	require.NoError(t, err)
	for range 3 {
		results <- &net.OpError{Op: "accept", Net: "tcp", Err: syscall.EMFILE}
	}
	second, _ := pipe(t)
	results <- second
	conn, err := l.Accept()
	require.NoError(t, err)
	require.Same(t, second, conn.(*connection).Conn)
	_, err = client.Read(make([]byte, 1))
	require.ErrorIs(t, err, io.EOF, "the idlest connection is not closed")
	require.Len(t, l.table.all, 1)
	require.Contains(t, log.String(), `level=WARN msg="a connection could not be accepted; the server goes on" error="accept tcp: too many open files"`)

	broken := errors.New("broken")
	results <- broken
	_, err = l.Accept()
	require.ErrorIs(t, err, broken)
}

// TestFull: the idlest makes way, and where all are at work nobody comes in.
func TestFull(t *testing.T) {
	var dropped []*connection
	table := newConnections(4, func(c *connection) { dropped = append(dropped, c) })
	clock := time.Unix(0, 0)
	table.now = func() time.Time { clock = clock.Add(time.Second); return clock }
	next := func() *connection {
		server, _ := pipe(t)
		return table.add(server)
	}
	var all []*connection
	for range 4 + table.reserve {
		all = append(all, next())
	}
	require.Empty(t, dropped)
	require.NotNil(t, next())
	require.Equal(t, []*connection{all[0]}, dropped)

	limit := all[1].workLimit(false)
	for _, c := range table.all[:limit] {
		require.True(t, c.startWork(limit))
	}
	rest := table.all[limit:]
	require.False(t, rest[0].startWork(limit), "more requests than may be are at work")
	require.True(t, rest[0].startWork(rest[0].workLimit(true)), "a client with a key has no place")
	for _, c := range rest {
		c.startWork(1 << 30) // as /health does
	}
	require.Nil(t, next())
	require.NoError(t, rest[0].Close())
	require.NoError(t, rest[0].Close())
	require.NotNil(t, next())
}

// secured is a connection by TLS, whose end takes time.
type secured struct{ net.Conn }

func (s secured) NetConn() net.Conn { return s.Conn }
func (s secured) Close() error      { panic("it says goodbye") }

// TestDropSecured: a connection by TLS is dropped without a goodbye.
func TestDropSecured(t *testing.T) {
	table := newConnections(1, func(*connection) {})
	server, client := pipe(t)
	require.NotNil(t, table.add(secured{server}))
	table.shed()
	_, err := client.Read(make([]byte, 1))
	require.ErrorIs(t, err, io.EOF)
	require.Empty(t, table.all)
}
