package kernel

import (
	"runtime"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

// testPool is a pool that the test's end closes.
func testPool(t testing.TB, workers int) *Pool {
	p := NewPool(workers)
	t.Cleanup(p.Close)
	return p
}

// requireOnce runs a job and checks that each item was done exactly once.
func requireOnce(t *testing.T, p *Pool, threads, n, grain int) {
	t.Helper()
	done := make([]atomic.Int32, n)
	p.Run(threads, n, grain, func(lo, hi int) {
		for i := lo; i < hi; i++ {
			done[i].Add(1)
		}
	})
	for i := range done {
		require.Equal(t, int32(1), done[i].Load(), "item %d of %d, %d threads, grain %d", i, n, threads, grain)
	}
}

func TestRunDoesEachItemOnce(t *testing.T) {
	r := newRand(t, 1)
	for _, workers := range threadCounts {
		p := testPool(t, workers)
		for range 300 {
			requireOnce(t, p, 1+r.IntN(6), r.IntN(1000), r.IntN(50))
		}
	}
}

// More callers than the pool has slots share the helpers, and some of their jobs run
// jobs of their own.
func TestRunFromManyCallers(t *testing.T) {
	p := testPool(t, 3)
	var callers sync.WaitGroup
	for range 2 * poolSlots {
		callers.Go(func() {
			for range 20 {
				requireOnce(t, p, 3, 200, 7)
			}
		})
	}
	callers.Wait()
	p.Run(3, 8, 1, func(lo, hi int) { requireOnce(t, p, 3, 40, 3) })
}

// An operation must not use more threads than its device may.
func TestRunBoundsItsThreads(t *testing.T) {
	p := testPool(t, 4)
	for range 50 {
		var inside, most atomic.Int32
		p.Run(2, 64, 1, func(lo, hi int) {
			n := inside.Add(1)
			for m := most.Load(); n > m && !most.CompareAndSwap(m, n); m = most.Load() {
			}
			runtime.Gosched()
			inside.Add(-1)
		})
		require.LessOrEqual(t, most.Load(), int32(2))
	}
}

// A caller waits for a helper that works on a piece, and not for one that has not
// started.
func TestRunDoesNotNeedItsHelpers(t *testing.T) {
	p := testPool(t, 2)
	hold, held := make(chan struct{}), make(chan struct{})
	var first sync.WaitGroup
	first.Go(func() { // both the caller and the helper are stuck in this job
		var stuck atomic.Int32
		p.Run(2, 2, 1, func(lo, hi int) {
			if stuck.Add(1) == 2 {
				close(held)
			}
			<-hold
		})
	})
	<-held
	requireOnce(t, p, 2, 100, 1)
	close(hold)
	first.Wait()
}

// The caller sleeps, rather than spin, where a helper's last piece is long.
func TestRunWaitsForALongPiece(t *testing.T) {
	p := testPool(t, 2)
	var mine, theirs atomic.Bool
	p.Run(2, 2, 1, func(lo, hi int) {
		if mine.CompareAndSwap(false, true) {
			for !theirs.Load() {
				runtime.Gosched()
			}
			return
		}
		theirs.Store(true)
		time.Sleep(20 * spinTime)
	})
	require.True(t, theirs.Load())
}

// Where as many nodes have work as the pool has workers, no job wakes a helper, and
// helpers park.
func TestHelpersStayOutOfTheWayOfBusyNodes(t *testing.T) {
	p := testPool(t, 2)
	p.Enter()
	p.Enter()
	require.Eventually(t, func() bool { return p.parked.Load() == 1 && p.spinning.Load() == 0 }, 5*time.Second, time.Millisecond)
	p.Run(2, 100, 1, func(lo, hi int) { require.Equal(t, int32(1), p.parked.Load()) })
	p.Leave()
	p.Leave()
	requireOnce(t, p, 2, 100, 1)
}

// Each token is taken once, by a goroutine that sleeps for it or by one that comes
// later.
func TestTokens(t *testing.T) {
	var tk tokens
	var taken atomic.Int32
	var sleepers sync.WaitGroup
	for range 4 {
		sleepers.Go(func() {
			for tk.take() {
				taken.Add(1)
			}
		})
	}
	const given = 1000
	for range given {
		tk.put(1)
	}
	require.Eventually(t, func() bool { return taken.Load() == given }, 5*time.Second, time.Millisecond)
	tk.close()
	sleepers.Wait()
	require.False(t, tk.take())
}

// Between Leave and Enter of the only node helpers do not spin.
func TestHelpersParkInTheOnlyNodesPauses(t *testing.T) {
	p := NewNodePool(2)
	t.Cleanup(p.Close)
	for range 20 {
		p.Enter()
		requireOnce(t, p, 2, 100, 1)
		p.Leave()
		require.Eventually(t, func() bool { return p.parked.Load() == 1 && p.spinning.Load() == 0 }, 5*time.Second, 10*time.Microsecond)
	}
	requireOnce(t, p, 2, 100, 1) // in a pause
	p.Close()
	start := time.Now()
	for range 1000 {
		require.False(t, p.spin())
	}
	require.Less(t, time.Since(start), 1000*spinTime)
}

// Enter of the only node wakes its helpers once, before there is a job.
func TestHelpersWakeWithTheOnlyNode(t *testing.T) {
	p := newPool(3) // whose helpers this test is
	p.oneNode = true
	p.parked.Store(2)
	p.Enter()
	require.Zero(t, p.parked.Load())
	require.True(t, p.tokens.take())
	require.True(t, p.tokens.take())
	p.parked.Store(2)
	p.Enter()
	require.Equal(t, int32(2), p.parked.Load())
}

func TestRunAfterClose(t *testing.T) {
	p := NewPool(3)
	p.Close()
	p.Close()
	requireOnce(t, p, 3, 100, 1)
}

func TestDevicesShareAPool(t *testing.T) {
	p := testPool(t, 2)
	c, err := NewCPU(CPUOptions{Pool: p, Threads: 7})
	require.NoError(t, err)
	require.Equal(t, 2, c.Threads(), "more threads than the pool has workers")
	require.NoError(t, c.Close())
	requireOnce(t, p, 2, 100, 1)
}

// BenchmarkHandOff is the cost of a job of two pieces that take no time, to a
// helper that spins.
func BenchmarkHandOff(b *testing.B) {
	p := testPool(b, 2)
	for b.Loop() {
		p.Run(2, 2, 1, func(lo, hi int) {})
	}
}

// TestRunsCount: Runs counts each return of Run.
func TestRunsCount(t *testing.T) {
	p := NewPool(2)
	defer p.Close()
	for i := range uint64(5) {
		require.Equal(t, i, p.Runs())
		p.Run(2, 100*int(i+1), 10, func(int, int) {})
	}
	p.Run(1, 0, 1, func(int, int) {})
	require.EqualValues(t, 5, p.Runs(), "nothing to do is no run")
}
