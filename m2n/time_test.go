package m2n

import (
	"context"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"
)

// closeAfter closes within the bubble, which must not outlive its goroutines.
func closeAfter(t *testing.T, all ...*Endpoint) {
	t.Helper()
	for _, e := range all {
		require.NoError(t, e.Close(context.Background()))
	}
}

func TestReadyTimeoutIsKept(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		a, b := duo(t, nil)
		begin := time.Now()
		_, err := a.Post("b", Message{Ready: newLatch()})
		require.NoError(t, err)
		c, err := a.Poll(t.Context())
		require.NoError(t, err)
		require.ErrorIs(t, c.Err, context.DeadlineExceeded)
		require.Equal(t, time.Minute, time.Since(begin))
		pollKind(t, a, Lost)
		closeAfter(t, a, b)
	})
}

// TestUnknownPeerIsHeldForATime: who dials before it is named waits for
// DialTimeout, to the nanosecond.
func TestUnknownPeerIsHeldForATime(t *testing.T) {
	for _, named := range []bool{true, false} {
		synctest.Test(t, func(t *testing.T) {
			n := NewNetwork()
			a := endpoint(t, Config{ID: "a", Network: n})
			b := endpoint(t, Config{ID: "b", Network: n})
			require.NoError(t, a.SetPeer("b", "inproc:b", 0))
			listen(t, b, "inproc:b")
			begin := time.Now()
			_, err := a.Post("b", Message{})
			require.NoError(t, err)
			time.Sleep(1900 * time.Millisecond)
			synctest.Wait()
			if named {
				require.NoError(t, b.SetPeer("a", "", 0))
				b.Release(pollKind(t, b, Received))
				require.NoError(t, pollKind(t, a, Sent).Err)
			} else {
				require.ErrorContains(t, pollKind(t, a, Sent).Err, `peer "a" (epoch 0) is not known to "b"`)
				require.Equal(t, 2*time.Second, time.Since(begin))
			}
			closeAfter(t, a, b)
		})
	}
}

// TestPollKeepsItsDeadline, spinning or not.
func TestPollKeepsItsDeadline(t *testing.T) {
	for _, spin := range []time.Duration{0, time.Hour} {
		e := endpoint(t, Config{ID: "e", SpinFor: spin})
		ctx, cancel := context.WithTimeout(t.Context(), 20*time.Millisecond)
		begin := time.Now()
		_, err := e.Poll(ctx)
		cancel()
		require.ErrorIs(t, err, context.DeadlineExceeded)
		require.Less(t, time.Since(begin), 5*time.Second)
	}
}

// TestCloseIsBounded: a receiver that keeps a message holds up its sender's
// Close for PeerTimeout, and the error says so.
func TestCloseIsBounded(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		a, b := duo(t, nil)
		_, err := a.Post("b", Message{})
		require.NoError(t, err)
		held := pollKind(t, b, Received)
		begin := time.Now()
		err = a.Close(context.Background())
		require.ErrorContains(t, err, `peer "b": 1 messages are not out`)
		require.Equal(t, 2*time.Second, time.Since(begin))
		require.ErrorIs(t, pollKind(t, b, Lost).Err, ErrClosed)
		require.ErrorIs(t, pollKind(t, a, Lost).Err, ErrClosed)
		b.Release(held) // the spans are free only now
		require.NoError(t, pollKind(t, a, Sent).Err)
		closeAfter(t, b)
	})
}
