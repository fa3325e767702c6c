package m2n

import (
	"context"
	"errors"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"golang.org/x/sys/unix"
)

// wakes is how often e's poller was woken since the last call.
func wakes(t *testing.T, e *Endpoint) int {
	t.Helper()
	var b [8]byte
	n, err := unix.Read(e.engine.Load().poller.WakeFD(), b[:])
	if errors.Is(err, unix.EAGAIN) {
		return 0
	}
	require.NoError(t, err)
	require.Equal(t, 8, n)
	return int(b[0])
}

// TestContextThatEndsAfterItsWaitAtThePoller wakes nobody: a wake would end the next
// wait for nothing.
func TestContextThatEndsAfterItsWaitAtThePoller(t *testing.T) {
	a, b := tcpDuo(t, func(c *Config) { c.SpinFor = -1 })
	transfer(t, a, b)
	waits(t, b, func() {
		_, err := a.Post("b", Message{})
		require.NoError(t, err)
	})
	time.Sleep(forASignal)
	require.Zero(t, wakes(t, b))
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	_, err := b.Poll(ctx)
	require.ErrorIs(t, err, context.Canceled)
	time.Sleep(forASignal)
	require.Zero(t, wakes(t, b), "nobody waited")
}
