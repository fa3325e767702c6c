package m2n

import (
	"bytes"
	"testing"

	"github.com/stretchr/testify/require"
	"golang.org/x/sys/unix"
)

// TestVectoredCalls: pieces of all lengths, more of them than fit on the stack, and
// what the kernel says where there is nothing, no room, or no peer.
func TestVectoredCalls(t *testing.T) {
	fds, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_STREAM|unix.SOCK_NONBLOCK|unix.SOCK_CLOEXEC, 0)
	require.NoError(t, err)
	to, from := fds[0], fds[1]
	defer unix.Close(from)
	_, err = readv(from, [][]byte{make([]byte, 1)})
	require.ErrorIs(t, err, unix.EAGAIN)

	var pieces, got [][]byte
	for i := range 20 {
		pieces = append(pieces, bytes.Repeat([]byte{byte(i)}, i*37%50))
		got = append(got, make([]byte, i*31%60))
	}
	sent, err := writev(to, pieces)
	require.NoError(t, err)
	want := bytes.Join(pieces, nil)
	require.Equal(t, len(want), sent)
	n, err := readv(from, got)
	require.NoError(t, err)
	require.Equal(t, want, bytes.Join(got, nil)[:n])

	large := make([]byte, 1<<20)
	for err == nil {
		n, err = writev(to, [][]byte{large})
		require.True(t, n > 0 || err != nil)
	}
	require.ErrorIs(t, err, unix.EAGAIN)
	require.NoError(t, unix.Close(to))
	for n, err = 1, nil; n > 0 && err == nil; {
		n, err = readv(from, [][]byte{large})
	}
	require.NoError(t, err)
	require.Zero(t, n, "the end")
	_, err = writev(from, [][]byte{large})
	require.ErrorIs(t, err, unix.EPIPE)
}

// TestEpollLookDoesNotWait: nothing, and then what is there.
func TestEpollLookDoesNotWait(t *testing.T) {
	g, err := newGate()
	require.NoError(t, err)
	defer g.close()
	events := make([]unix.EpollEvent, 4)
	n, err := epollLook(g.epoll, events)
	require.NoError(t, err)
	require.Zero(t, n)
	g.ring()
	n, err = epollLook(g.epoll, events)
	require.NoError(t, err)
	require.Equal(t, 1, n)
	require.Equal(t, int32(g.bell), events[0].Fd)
}
