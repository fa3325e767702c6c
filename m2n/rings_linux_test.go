package m2n

import (
	"context"
	"errors"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"golang.org/x/sys/unix"
)

// rings takes the bell's count: how often it was rung since the last time.
func rings(t *testing.T, e *Endpoint) int {
	t.Helper()
	e.engine.Load().poller.mu.Lock()
	defer e.engine.Load().poller.mu.Unlock()
	var b [8]byte
	n, err := unix.Read(e.engine.Load().poller.bell, b[:])
	if errors.Is(err, unix.EAGAIN) {
		return 0
	}
	require.NoError(t, err)
	require.Equal(t, 8, n)
	return int(b[0])
}

// TestContextThatEndsAfterItsWaitAtTheGate rings no bell: it would end the next wait
// for nothing.
func TestContextThatEndsAfterItsWaitAtTheGate(t *testing.T) {
	a, b := tcpDuo(t, func(c *Config) { c.SpinFor = -1 })
	transfer(t, a, b)
	waits(t, b, func() {
		_, err := a.Post("b", Message{})
		require.NoError(t, err)
	})
	time.Sleep(forASignal)
	require.Zero(t, rings(t, b))
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	_, err := b.Poll(ctx)
	require.ErrorIs(t, err, context.Canceled)
	time.Sleep(forASignal)
	require.Zero(t, rings(t, b), "nobody waited")
}
