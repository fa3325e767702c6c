package poll

import (
	"errors"
	"net"
	"testing"

	"github.com/stretchr/testify/require"
	"golang.org/x/sys/unix"
)

// TestLowMark: what is asked of the kernel, and what becomes of it where the kernel
// says no.
func TestLowMark(t *testing.T) {
	refused := errors.New("refused")
	type step struct {
		lacks, want int // want: the mark after that
		refused     bool
		room        int
		fails       bool
	}
	for _, tc := range []struct {
		name  string
		steps []step
	}{
		{"as much as is lacking", []step{{lacks: 70_000, want: 70_000}, {lacks: 40_000, want: 40_000}, {lacks: 1 << 30, want: MostAwaited}}},
		{"a short rest is not waited for", []step{{lacks: LeastAwaited, want: LeastAwaited}, {lacks: LeastAwaited - 1, want: 1}, {lacks: 0, want: 1}}},
		{"it cannot be raised", []step{{lacks: 70_000, want: 1, refused: true}, {lacks: 80_000, want: 80_000}, {lacks: 90_000, want: 80_000, refused: true}}},
		{"it cannot be lowered", []step{{lacks: 70_000, want: 70_000}, {lacks: 64, want: 70_000, refused: true, fails: true}}},
		{"the buffer is smaller", []step{{lacks: 70_000, want: 1, room: 69_999}, {lacks: 50_000, want: 50_000, room: 69_999}}},
	} {
		t.Run(tc.name, func(t *testing.T) {
			kernel := 1
			var now step
			m := lowMark{at: 1, buffer: func() (int, error) { return now.room, nil }, tell: func(n int) error {
				if now.refused {
					return refused
				}
				kernel = n
				return nil
			}}
			for _, now = range tc.steps {
				if now.room == 0 {
					now.room = 1 << 30
				}
				err := m.set(now.lacks)
				require.Equal(t, now.want, kernel)
				if now.fails {
					require.ErrorIs(t, err, refused)
					require.ErrorContains(t, err, "lowering SO_RCVLOWAT from 70000 to 1 bytes")
					return
				}
				require.NoError(t, err)
				require.Equal(t, kernel, m.at)
			}
		})
	}
}

// tcpPipe is both ends of a TCP connection.
func tcpPipe(t *testing.T) (mine *net.TCPConn, theirs net.Conn) {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	require.NoError(t, err)
	defer l.Close()
	theirs, err = net.Dial("tcp", l.Addr().String())
	require.NoError(t, err)
	t.Cleanup(func() { theirs.Close() })
	c, err := l.Accept()
	require.NoError(t, err)
	return c.(*net.TCPConn), theirs
}

// TestMarkOfAnotherOwner: a socket that comes with a mark, of its listener for
// example, is not waited on by that.
func TestMarkOfAnotherOwner(t *testing.T) {
	mine, _ := tcpPipe(t)
	defer mine.Close()
	raw, err := mine.SyscallConn()
	require.NoError(t, err)
	require.NoError(t, raw.Control(func(fd uintptr) {
		require.NoError(t, unix.SetsockoptInt(int(fd), unix.SOL_SOCKET, unix.SO_RCVLOWAT, 5000))
		m := newLowMark(int(fd))
		require.NoError(t, m.set(64))
		at, err := unix.GetsockoptInt(int(fd), unix.SOL_SOCKET, unix.SO_RCVLOWAT)
		require.NoError(t, err)
		require.Equal(t, 1, at)
	}))
}
