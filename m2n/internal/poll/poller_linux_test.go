package poll

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

// TestEpollNowDoesNotWait: it finds nothing, and then the wake that is there.
func TestEpollNowDoesNotWait(t *testing.T) {
	p, err := New()
	require.NoError(t, err)
	defer p.Close()
	require.Empty(t, p.Wait(false))
	p.Wake()
	events := p.Wait(false)
	require.Len(t, events, 1)
	require.Equal(t, int32(p.WakeFD()), events[0].Fd)
	require.Zero(t, p.Serve(events), "a wake has no source")
}

// watched counts the calls of a source.
type watched struct{ readable, writable int }

func (w *watched) Readable() { w.readable++ }
func (w *watched) Writable() { w.writable++ }

// TestPollerCallsSources: Readable as long as there is something, Writable once after
// each WantWrite, and neither after Remove.
func TestPollerCallsSources(t *testing.T) {
	fds, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_STREAM|unix.SOCK_NONBLOCK|unix.SOCK_CLOEXEC, 0)
	require.NoError(t, err)
	defer unix.Close(fds[0])
	defer unix.Close(fds[1])
	p, err := New()
	require.NoError(t, err)
	defer p.Close()
	var w watched
	require.ErrorIs(t, p.WantWrite(fds[0]), ErrClosed, "it is not watched yet")
	require.NoError(t, p.Add(fds[0], &w))
	require.Zero(t, p.Serve(p.Wait(false)))
	require.NoError(t, p.WantWrite(fds[0]))
	require.Equal(t, 1, p.Serve(p.Wait(true)))
	require.Zero(t, p.Serve(p.Wait(false)), "it is told once")
	require.Equal(t, watched{writable: 1}, w)
	_, err = unix.Write(fds[1], []byte("x"))
	require.NoError(t, err)
	for range 2 {
		require.Equal(t, 1, p.Serve(p.Wait(true)))
	}
	require.Equal(t, watched{readable: 2, writable: 1}, w)
	p.Remove(fds[0])
	require.Zero(t, p.Serve(p.Wait(false)))
	p.Close()
	require.ErrorIs(t, p.Add(fds[0], &w), ErrClosed)
}
