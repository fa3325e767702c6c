package m2n

import (
	"testing"

	"github.com/stretchr/testify/require"
	"golang.org/x/sys/unix"

	"github.com/tandem-moe/tandem/m2n/internal/wire"
)

// TestCreditsThatCannotBeWritten: a message arrives that makes credits urgent, on
// whose connection nothing can be written any more.
func TestCreditsThatCannotBeWritten(t *testing.T) {
	t.Parallel()
	h := newLaneHost(t, 2)
	bodies := h.join(h.token, 1)
	h.ready()
	deliver := func() Completion {
		bodies.send(wire.Frame{Kind: wire.Data, Epoch: 3}, "")
		return pollKind(t, h.e, Received)
	}
	h.e.Release(deliver()) // a credit that waits for company
	h.e.mu.RLock()
	l := h.e.pairs["x"].upLink().(*wireLink)
	h.e.mu.RUnlock()
	require.NoError(t, unix.Shutdown(l.control().conn.(*socketConn).socket.FD(), unix.SHUT_WR))
	for range h.e.cfg.Slots/2 - 1 {
		deliver()
	}
	bodies.send(wire.Frame{Kind: wire.Data, Epoch: 3}, "")
	require.ErrorIs(t, requireLost(t, h.e, "x"), ErrBroken)
	transfer(t, h.e, h.c)
}
