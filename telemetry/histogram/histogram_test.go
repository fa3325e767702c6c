package histogram_test

import (
	"math"
	"slices"
	"sync"
	"testing"

	"github.com/stretchr/testify/require"
	"pgregory.net/rapid"

	"github.com/tandem-moe/tandem/telemetry/histogram"
)

// TestEqualsCounting compares with a count by hand over random values.
func TestEqualsCounting(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		values := rapid.SliceOf(rapid.Float64Range(-1, 20)).Draw(t, "values")
		bounds := histogram.Powers(5)
		h := histogram.New(bounds...)
		sum := 0.0
		for _, v := range values {
			h.Observe(v)
			sum += v
		}
		got := h.Snapshot()
		low := math.Inf(-1)
		for i, high := range append(slices.Clone(bounds), math.Inf(1)) {
			want := uint64(0)
			for _, v := range values {
				if v > low && v <= high {
					want++
				}
			}
			require.Equal(t, want, got.Counts[i], "in (%v, %v]", low, high)
			low = high
		}
		require.Equal(t, uint64(len(values)), got.Count())
		require.Equal(t, sum, got.Sum)
	})
}

func TestObserveAtOnce(t *testing.T) {
	h := histogram.New(histogram.Seconds()...)
	var wg sync.WaitGroup
	for range 8 {
		wg.Go(func() {
			for range 1000 {
				h.Observe(0.5)
			}
		})
	}
	wg.Wait()
	require.Equal(t, uint64(8000), h.Snapshot().Count())
	require.Equal(t, 4000.0, h.Snapshot().Sum)
}

func TestAdd(t *testing.T) {
	a, b := histogram.New(1, 2), histogram.New(1, 2)
	a.Observe(0.5)
	b.Observe(2)
	b.Observe(3)
	want := histogram.Snapshot{Bounds: []float64{1, 2}, Counts: []uint64{1, 1, 1}, Sum: 5.5}
	require.Equal(t, want, a.Snapshot().Add(b.Snapshot()))
	require.Equal(t, want, histogram.Snapshot{}.Add(want))
	require.Equal(t, want, want.Add(histogram.Snapshot{}))
	require.Panics(t, func() { want.Add(histogram.New(5).Snapshot()) })
	require.Panics(t, func() { histogram.New(2, 1) })
}
