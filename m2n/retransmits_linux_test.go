package m2n

import (
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

// TestLaneAsksTheKernel: a lane knows its retransmits while it is open, and not afterwards.
func TestLaneAsksTheKernel(t *testing.T) {
	a, b := tcpDuo(t, nil)
	_, err := a.Post("b", Message{})
	require.NoError(t, err)
	b.Release(pollKind(t, b, Received))
	require.NoError(t, pollKind(t, a, Sent).Err)
	p := a.allPairs()[0]
	p.mu.Lock()
	c := p.link.(*wireLink).control().conn
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
