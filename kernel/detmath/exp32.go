package detmath

import "math"

// The steps of Exp32, which the vector kernels share. Expᵢ are the coefficients
// of rⁱ: a minimax fit of (exp(r) − 1 − r)/r² over |r| ≤ ln2/2, relative error
// 2⁻²⁸, rounded to float32.
const (
	// ExpMax and ExpMin clamp the argument: beyond them the result is +Inf or 0
	// in any case, and the power of two stays representable.
	ExpMax float32 = 89
	ExpMin float32 = -104

	ExpLog2E float32 = 0x1.715476p+0
	// ExpMagic, added and subtracted, rounds to an integer: 1.5·2²³.
	ExpMagic float32 = 0x1.8p+23
	// ExpLn2Hi has 15 bits, so that n·ExpLn2Hi is exact.
	ExpLn2Hi float32 = 0x1.62e4p-1
	ExpLn2Lo float32 = 0x1.7f7d1cp-20

	Exp2 float32 = 0x1.fffffcp-2
	Exp3 float32 = 0x1.555490p-3
	Exp4 float32 = 0x1.5558f8p-5
	Exp5 float32 = 0x1.123b04p-7
	Exp6 float32 = 0x1.6a2276p-10
)

// Exp32 is eˣ to within 1 unit in the last place, subnormal results included.
// Exp32(−Inf) = 0, Exp32(+Inf) = +Inf, and NaN gives NaN.
func Exp32(x float32) float32 {
	if x != x {
		return x
	}
	x = min(max(x, ExpMin), ExpMax)
	n := FMA32(x, ExpLog2E, ExpMagic) - ExpMagic
	r := FMA32(n, -ExpLn2Hi, x)
	r = FMA32(n, -ExpLn2Lo, r)
	p := FMA32(Exp6, r, Exp5)
	p = FMA32(p, r, Exp4)
	p = FMA32(p, r, Exp3)
	p = FMA32(p, r, Exp2)
	p = FMA32(p, r, 1)
	p = FMA32(p, r, 1)
	// Two factors, each a normal number: the first product is exact, so that
	// the result is rounded once.
	half := int32(n) >> 1
	return float32(float32(p*power32(half)) * power32(int32(n)-half))
}

// power32 is 2ⁿ for −126 ≤ n ≤ 127.
func power32(n int32) float32 { return math.Float32frombits(uint32(n+127) << 23) }

// Sigmoid32 is 1/(1 + e⁻ˣ).
func Sigmoid32(x float32) float32 { return 1 / (1 + Exp32(-x)) }

// SiLU32 is x/(1 + e⁻ˣ), one division. It is −0 where e⁻ˣ overflows, and NaN
// for −Inf.
func SiLU32(x float32) float32 { return x / (1 + Exp32(-x)) }

// Log32 is the natural logarithm, correctly rounded but for cases closer to a
// tie than the error of [Log]. Zero gives −Inf, negative numbers NaN.
func Log32(x float32) float32 { return float32(Log(float64(x))) }
