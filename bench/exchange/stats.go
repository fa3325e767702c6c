package exchange

import (
	"math"
	"slices"
)

// quantile is the smallest of the values that at least the q-th part, above 0
// and up to 1, does not exceed. It is 0 for no values.
func quantile(values []float64, q float64) float64 {
	if len(values) == 0 {
		return 0
	}
	sorted := slices.Sorted(slices.Values(values))
	i := int(math.Ceil(q*float64(len(sorted)))) - 1
	return sorted[min(max(i, 0), len(sorted)-1)]
}

func median(values []float64) float64 { return quantile(values, 0.5) }

// ratio is the median of the quotients of a and b, turn by turn, of what each
// turn's times come to.
func ratio(a, b []turn, figure func(times []float64) float64) float64 {
	var quotients []float64
	for i := range min(len(a), len(b)) {
		if d := figure(b[i].times); d > 0 {
			quotients = append(quotients, figure(a[i].times)/d)
		}
	}
	return median(quotients)
}

func p99(values []float64) float64 { return quantile(values, 0.99) }

// allTimes joins the times of turns.
func allTimes(turns []turn) []float64 {
	var all []float64
	for _, t := range turns {
		all = append(all, t.times...)
	}
	return all
}
