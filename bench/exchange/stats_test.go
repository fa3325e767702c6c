package exchange

import (
	"testing"

	"github.com/stretchr/testify/require"
)

// TestQuantile is the nearest rank.
func TestQuantile(t *testing.T) {
	values := []float64{5, 1, 4, 2, 3}
	for q, want := range map[float64]float64{0.01: 1, 0.2: 1, 0.21: 2, 0.5: 3, 0.8: 4, 0.81: 5, 0.99: 5, 1: 5} {
		require.InDelta(t, want, quantile(values, q), 0, "q = %v", q)
	}
	require.Equal(t, []float64{5, 1, 4, 2, 3}, values, "they stay as they are")
	require.Zero(t, quantile(nil, 0.5))
	hundred := make([]float64, 100)
	for i := range hundred {
		hundred[i] = float64(i + 1)
	}
	require.InDelta(t, 99, p99(hundred), 0)
	require.InDelta(t, 50, median(hundred), 0)
}

// TestRatio compares turn by turn: a machine that is twice as slow in one turn
// changes nothing.
func TestRatio(t *testing.T) {
	turnsOf := func(medians ...float64) []turn {
		var list []turn
		for _, m := range medians {
			list = append(list, turn{times: []float64{m / 2, m, 9 * m}})
		}
		return list
	}
	require.InDelta(t, 0.5, ratio(turnsOf(1, 2, 1), turnsOf(2, 4, 2), median), 1e-12)
	require.InDelta(t, 0.25, ratio(turnsOf(1, 1, 1), turnsOf(4, 1, 8), p99), 1e-12)
	require.Zero(t, ratio(nil, turnsOf(1), median))
}

// TestIterationsOf: as many as are wanted, or as there is time for.
func TestIterationsOf(t *testing.T) {
	o := &Options{Iterations: 1000, Repeats: 5, Transports: []string{"tcp"}}
	require.NoError(t, o.fill())
	require.Equal(t, 200, iterationsOf(o, 1e-3))
	require.Equal(t, 2560, iterationsOf(o, 0x1p-7/1000), "20 ms")
	require.Equal(t, 200, iterationsOf(o, 0))
	require.Equal(t, 40, iterationsOf(o, 0.1), "20 s, 5 turns")
	require.Equal(t, 1, iterationsOf(o, 100))
	o.Iterations = 1e9
	require.Equal(t, maxRound-maxRound/10, iterationsOf(o, 1e-9))
}
