package shm

import (
	"encoding/binary"
	"testing"

	"github.com/stretchr/testify/require"
	"golang.org/x/sys/unix"

	"github.com/tandem-moe/tandem/m2n/internal/wire"
)

type counter struct{ rung int }

func (c *counter) Readable() { c.rung++ }

// mapped is the page as a peer has it.
func mapped(t *testing.T, p *Page) *PeerPage {
	t.Helper()
	fd, err := unix.Dup(p.FD())
	require.NoError(t, err)
	peer, err := MapPage(fd)
	require.NoError(t, err)
	t.Cleanup(peer.Close)
	return peer
}

// TestDoorbell: the handler of a doorbell is called for it and for no other, once
// however often it was signalled; the owner is woken only where it sleeps, and once.
func TestDoorbell(t *testing.T) {
	p, err := NewPage()
	require.NoError(t, err)
	t.Cleanup(p.Close)
	require.False(t, p.InUse())
	handlers := make([]counter, 100)
	for want := range handlers {
		i, err := p.Reserve()
		require.NoError(t, err)
		require.Equal(t, want, i)
		p.Handle(i, &handlers[i])
	}
	require.True(t, p.InUse())
	require.Equal(t, len(handlers), p.Poll(), "each once, for what came before it was handled")
	eventfd, err := unix.Eventfd(0, unix.EFD_CLOEXEC|unix.EFD_NONBLOCK)
	require.NoError(t, err)
	t.Cleanup(func() { CloseFDs([]int{eventfd}) })
	wakes := func() uint64 {
		var b [8]byte
		_, _ = unix.Read(eventfd, b[:]) // nothing was written: 0
		return binary.NativeEndian.Uint64(b[:])
	}
	peer := mapped(t, p)
	bell := peer.Doorbell(70, eventfd)
	bell.Signal()
	bell.Signal()
	require.Equal(t, 1, p.Poll())
	require.Zero(t, p.Poll())
	require.Equal(t, 2, handlers[70].rung)
	require.Equal(t, 1, handlers[69].rung)
	require.Zero(t, wakes(), "the owner is awake")

	require.False(t, p.PrepareSleep())
	bell.Signal()
	peer.Doorbell(3, eventfd).Signal()
	require.EqualValues(t, 1, wakes())
	require.True(t, p.PrepareSleep(), "something came before")
	p.Awake()
	bell.Signal()
	require.Zero(t, wakes())

	p.Release(70)
	require.Equal(t, 1, p.Poll(), "that of 3 alone")
	i, err := p.Reserve()
	require.NoError(t, err)
	require.Equal(t, 70, i)
}

// TestDoorbellsAreBounded: by the page, and by what a peer may name.
func TestDoorbellsAreBounded(t *testing.T) {
	p, err := NewPage()
	require.NoError(t, err)
	t.Cleanup(p.Close)
	for range MaxDoorbells {
		_, err := p.Reserve()
		require.NoError(t, err)
	}
	_, err = p.Reserve()
	require.ErrorContains(t, err, "4096 peers share memory with this endpoint, the limit")
	require.NoError(t, CheckDoorbell(MaxDoorbells-1))
	for _, i := range []int{-1, MaxDoorbells} {
		require.ErrorIs(t, CheckDoorbell(i), wire.ErrBadFrame)
	}
}
