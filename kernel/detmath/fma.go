package detmath

import "math"

// FMA32 is x·y + z with a single rounding: what VFMADD and FMLA compute.
//
// The product of two float32 is exact in float64, so only the sum needs care:
// rounded to float64 and then to float32 it would be rounded twice. The first
// rounding does harm only where it lands on a tie of the second, or where the
// second has fewer bits than usual because the result is subnormal; elsewhere
// the plain sum is right, and in those cases it is rounded to odd instead.
func FMA32(x, y, z float32) float32 {
	p := float64(float64(x) * float64(y))
	s := p + float64(z)
	b := math.Float64bits(s)
	if b&narrowed != tie && b<<1 >= smallestNormal<<1 {
		return float32(s)
	}
	return float32(toOdd(s, p, float64(z)))
}

const (
	narrowed       = 1<<29 - 1              // the bits of a float64 that float32 lacks
	tie            = 1 << 28                // half a unit in the last place of a float32
	smallestNormal = uint64(1023-126) << 52 // the bits of 2⁻¹²⁶, float32's smallest normal
)

// toOdd takes s = p + z rounded to nearest, and gives p + z rounded to odd: where
// the sum is not exact, its neighbour with the last bit set. Rounding that to
// fewer bits is the same as rounding p + z itself (Boldo and Melquiond, 2008).
func toOdd(s, p, z float64) float64 {
	err := twoSumError(s, p, z)
	b := math.Float64bits(s)
	if err == 0 || err != err || b&1 == 1 {
		return s
	}
	if (err > 0) == (s > 0) {
		return math.Float64frombits(b + 1)
	}
	return math.Float64frombits(b - 1)
}

// twoSumError is a + b − s exactly, for s = a + b rounded to nearest (Knuth's
// TwoSum); NaN where s is not finite.
func twoSumError(s, a, b float64) float64 {
	bb := s - a
	return (a - (s - bb)) + (b - bb)
}
