// Package histogram counts values in buckets, cheaply enough for a hot path: an
// observation is a short search and two atomic additions. It may not know who
// observes what, nor how counts are exported.
package histogram

import (
	"fmt"
	"math"
	"slices"
	"sync/atomic"
)

// Histogram counts observations. Its methods may be called at the same time.
type Histogram struct {
	// bounds are the buckets' upper ends, included, in ascending order; values
	// above the last are counted in a bucket of their own.
	bounds []float64
	counts []atomic.Uint64
	sum    atomic.Uint64 // a float64's bits
}

// New makes a histogram. It panics where the bounds are not ascending.
func New(bounds ...float64) *Histogram {
	for i := 1; i < len(bounds); i++ {
		if bounds[i] <= bounds[i-1] {
			panic(fmt.Sprintf("histogram: bound %v follows %v", bounds[i], bounds[i-1]))
		}
	}
	return &Histogram{bounds: slices.Clone(bounds), counts: make([]atomic.Uint64, len(bounds)+1)}
}

// Seconds are bounds for what takes from 10 µs to 10 s.
func Seconds() []float64 {
	return []float64{
		1e-5, 2.5e-5, 5e-5, 1e-4, 2.5e-4, 5e-4, 1e-3, 2.5e-3, 5e-3,
		1e-2, 2.5e-2, 5e-2, 0.1, 0.25, 0.5, 1, 2.5, 5, 10,
	}
}

// Powers are the n bounds 1, 2, 4, …, for counts.
func Powers(n int) []float64 {
	bounds := make([]float64, n)
	for i := range bounds {
		bounds[i] = math.Ldexp(1, i)
	}
	return bounds
}

// Observe counts a value.
func (h *Histogram) Observe(value float64) {
	at, _ := slices.BinarySearch(h.bounds, value)
	h.counts[at].Add(1)
	for {
		old := h.sum.Load()
		if h.sum.CompareAndSwap(old, math.Float64bits(math.Float64frombits(old)+value)) {
			return
		}
	}
}

// Snapshot is a histogram at one time, as plain data. The zero Snapshot counts
// nothing.
type Snapshot struct {
	Bounds []float64
	// Counts has one entry per bound, and one for what lies above the last.
	Counts []uint64
	Sum    float64
}

// Snapshot copies the counts. Observations made meanwhile may be in some of them
// only.
func (h *Histogram) Snapshot() Snapshot {
	s := Snapshot{Bounds: h.bounds, Counts: make([]uint64, len(h.counts)), Sum: math.Float64frombits(h.sum.Load())}
	for i := range h.counts {
		s.Counts[i] = h.counts[i].Load()
	}
	return s
}

// Count is the number of observations.
func (s Snapshot) Count() uint64 {
	var n uint64
	for _, c := range s.Counts {
		n += c
	}
	return n
}

// Add is the sum of two snapshots, of two nodes say. It panics where their bounds
// differ, unless one counts nothing.
func (s Snapshot) Add(other Snapshot) Snapshot {
	if len(s.Counts) == 0 {
		return other
	}
	if len(other.Counts) == 0 {
		return s
	}
	if !slices.Equal(s.Bounds, other.Bounds) {
		panic(fmt.Sprintf("histogram: bounds %v and %v differ", s.Bounds, other.Bounds))
	}
	sum := Snapshot{Bounds: s.Bounds, Counts: slices.Clone(s.Counts), Sum: s.Sum + other.Sum}
	for i, c := range other.Counts {
		sum.Counts[i] += c
	}
	return sum
}
