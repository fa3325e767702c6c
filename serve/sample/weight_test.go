package sample

import (
	"math"
	"testing"

	"github.com/stretchr/testify/require"
	"pgregory.net/rapid"
)

func TestWeightError(t *testing.T) {
	require.Equal(t, uint64(1<<weightBits), weight(0))
	require.Equal(t, uint64(0), weight(math.Inf(-1)))
	for z := 0.0; z > -45; z -= 0.000731 {
		want := math.Exp(z) * (1 << weightBits)
		require.InDelta(t, want, float64(weight(z)), 1, "exp(%v)", z)
	}
}

func TestWeightRises(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		a := rapid.Float64Range(-45, 0).Draw(t, "a")
		b := rapid.Float64Range(a, 0).Draw(t, "b")
		// From one entry of the table to the next, rounding may lower the weight by one.
		require.LessOrEqual(t, weight(a), weight(b)+1)
	})
}

func TestFloorLosesNothing(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		best := rapid.Float32().Draw(t, "best")
		logit := rapid.Float32Max(best).Draw(t, "logit")
		temperature := rapid.Float64Range(math.SmallestNonzeroFloat64, 1e300).Draw(t, "temperature")
		least := leastWeight(rapid.Float64Range(0, 1).Draw(t, "min-p"))
		if weight((float64(logit)-float64(best))/temperature) >= least {
			require.GreaterOrEqual(t, float64(logit), floor(best, temperature, least))
		}
	})
}
