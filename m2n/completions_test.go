package m2n

import (
	"context"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

// waits polls, with a context of its own, for the completion that do causes, and ends the
// context then, as a consumer does that waits with a deadline.
func waits(t *testing.T, e *Endpoint, do func()) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), atLast)
	defer cancel()
	polled := make(chan error, 1)
	go func() {
		_, err := e.Poll(ctx)
		polled <- err
	}()
	require.Eventually(t, func() bool {
		e.completions.mu.Lock()
		defer e.completions.mu.Unlock()
		return e.completions.parked
	}, atLast, time.Millisecond)
	do()
	require.NoError(t, <-polled)
}

// forASignal is how long the tests wait for a signal that should not come.
const forASignal = 20 * time.Millisecond

// TestContextThatEndsAfterItsWait: it signals nobody, neither at once nor later.
func TestContextThatEndsAfterItsWait(t *testing.T) {
	a, b := duo(t, nil)
	waits(t, b, func() {
		_, err := a.Post("b", Message{})
		require.NoError(t, err)
	})
	time.Sleep(forASignal)
	require.Empty(t, b.completions.wakeup)
}

// TestContextThatEndsDuringItsWait: the wait ends at once, whenever it has begun.
func TestContextThatEndsDuringItsWait(t *testing.T) {
	for name, make := range map[string]func(testing.TB, func(*Config)) (a, b *Endpoint){"inproc": duo, "tcp": tcpDuo, "shm": shmDuo} {
		t.Run(name, func(t *testing.T) {
			a, b := make(t, nil)
			transfer(t, a, b)
			for i := range 300 {
				ctx, cancel := context.WithCancel(t.Context())
				time.AfterFunc(time.Duration(i)*time.Microsecond, cancel)
				_, err := b.Poll(ctx)
				require.ErrorIs(t, err, context.Canceled)
			}
		})
	}
}
