package sample

import (
	"math"

	"github.com/tandem-moe/tandem/kernel/detmath"
)

// Weights are probabilities in fixed point: the best candidate has weight
// 2^weightBits, and another one exp((logit − best) / temperature) times that,
// rounded. Their sums are exact in any order. The rounding error of a candidate is
// below 2⁻⁴² of the best candidate's probability.
const weightBits = 42

// MaxVocabulary bounds a row, so that a sum of weights fits 63 bits.
const MaxVocabulary = 1 << 21

// powerBits is the binary logarithm of the number of powers in the table.
const powerBits = 7

// powers[i] is the weight 2^(i / 2^powerBits).
var powers = func() (t [1 << powerBits]float64) {
	for i := range t {
		t[i] = float64(detmath.Exp(float64(i)*math.Ln2/(1<<powerBits)) * (1 << weightBits))
	}
	return t
}()

// weight is exp(z) in fixed point, for z ≤ 0, to within one unit. The exponentials
// of a whole vocabulary are most of the work of a draw, and fixed point needs fewer
// bits than detmath.Exp gives. So exp(z) is 2^(k/128), from a table, times exp(r)
// with |r| < 0.003, for which five terms of the series suffice.
func weight(z float64) uint64 {
	const step = math.Ln2 / (1 << powerBits)
	if z < -weightBits {
		return 0 // below −43·ln2, exp(z) is less than half a unit
	}
	k := int(float64(z*(1/step)) - 0.5)
	r := z - float64(float64(k)*step)
	p := float64(r*(1./24)) + 1./6
	p = float64(p*r) + 1./2
	p = float64(p*r) + 1
	p = float64(p*r) + 1
	scale := math.Float64frombits(uint64(1023+k>>powerBits) << 52)
	x := float64(float64(powers[k&(1<<powerBits-1)]*p) * scale)
	return uint64(int64(x + 0.5)) // the signed conversion is one instruction
}

// leastWeight is the lowest weight that min-p keeps, and at least 1.
func leastWeight(minP float64) uint64 {
	return max(1, uint64(float64(minP*(1<<weightBits))+0.5))
}

// floor is a logit below which no candidate has the least weight, so that its
// exponential need not be computed. The floor stands for a weight e times lower than
// the least, which covers all rounding errors.
func floor(best float32, temperature float64, least uint64) float64 {
	z := detmath.Log(float64(least)/(1<<weightBits)) - 1
	return float64(best) + float64(z*temperature)
}

// share is p times the total, rounded up, and at least 1.
func share(p float64, total uint64) uint64 {
	up := -math.Floor(-float64(p * float64(total)))
	return min(max(uint64(up), 1), total)
}
