package detmath

import "math"

// ln2 = ln2Hi + ln2Lo; ln2Hi has 32 bits, so that its product with an exponent
// is exact.
const (
	ln2Hi = 0x1.62e42feep-1
	ln2Lo = 0x1.a39ef35793c76p-33
	log2E = 0x1.71547652b82fep+0
)

// Exp is eˣ to within 1 unit in the last place.
func Exp(x float64) float64 { return expSum(x, 0) }

// expSum is e^(hi+lo) for |lo| far below |hi|: FreeBSD's e_exp.c with the
// argument in two parts.
func expSum(hi, lo float64) float64 {
	switch {
	case hi != hi:
		return hi
	case hi > 710:
		return math.Inf(1)
	case hi < -746:
		return 0
	}
	n := math.Floor(math.FMA(hi, log2E, 0.5))
	hi = math.FMA(-n, ln2Hi, hi)
	lo = math.FMA(n, ln2Lo, -lo)
	return ldexp(expReduced(hi, lo), int(n))
}

// expReduced is e^(hi−lo) for |hi−lo| ≤ ln2/2.
func expReduced(hi, lo float64) float64 {
	const (
		p1 = 1.66666666666666019037e-01
		p2 = -2.77777777770155933842e-03
		p3 = 6.61375632143793436117e-05
		p4 = -1.65339022054652515390e-06
		p5 = 4.13813679705723846039e-08
	)
	r := hi - lo
	t := float64(r * r)
	c := math.FMA(-t, poly(t, p1, p2, p3, p4, p5), r)
	return 1 - ((lo - float64(r*c)/(2-c)) - hi)
}

// poly is the polynomial with the given coefficients, constant first.
func poly(x float64, c ...float64) float64 {
	y := c[len(c)-1]
	for i := len(c) - 2; i >= 0; i-- {
		y = math.FMA(y, x, c[i])
	}
	return y
}

// ldexp is x·2ⁿ for x near 1 and |n| < 2·1022, rounded once.
func ldexp(x float64, n int) float64 {
	half := n >> 1
	return float64(float64(x*power(half)) * power(n-half))
}

// power is 2ⁿ for −1022 ≤ n ≤ 1023.
func power(n int) float64 { return math.Float64frombits(uint64(n+1023) << 52) }

// Log is the natural logarithm to within 0.53 units in the last place. Zero
// gives −Inf, negative numbers NaN.
func Log(x float64) float64 {
	switch {
	case x != x || x > math.MaxFloat64:
		return x
	case x < 0:
		return math.NaN()
	case x == 0:
		return math.Inf(-1)
	}
	hi, lo := logSum(x)
	return hi + lo
}

// logSum is the logarithm of a positive finite x as an unevaluated sum, with a
// relative error of about 2⁻⁵⁹.
//
// x is 2ᵏ·(1+f) with 1+f within a factor √2 of 1, and log(1+f) = 2s + s·R(s²)
// for s = f/(2+f), with R from FreeBSD's e_log.c. The second term is below 1 %
// of the first, so that only s needs more than float64.
func logSum(x float64) (hi, lo float64) {
	const (
		l1 = 6.666666666666735130e-01
		l2 = 3.999999999940941908e-01
		l3 = 2.857142874366239149e-01
		l4 = 2.222219843214978396e-01
		l5 = 1.818357216161805012e-01
		l6 = 1.531383769920937332e-01
		l7 = 1.479819860511658591e-01
	)
	m, k := split(x)
	f := m - 1
	d := 2 + f
	dLo := f - (d - 2)
	s := f / d
	sLo := math.FMA(-s, dLo, math.FMA(-s, d, f)) / d
	z := float64(s * s)
	r := float64(z * poly(z, l1, l2, l3, l4, l5, l6, l7))

	a, b := float64(k*ln2Hi), float64(2*s)
	sum := a + b
	rest := twoSumError(sum, a, b) + math.FMA(k, ln2Lo, math.FMA(s, r, float64(2*sLo)))
	hi = sum + rest
	return hi, rest - (hi - sum)
}

// split is x = m·2ᵏ with √½ ≤ m < √2, for positive finite x.
func split(x float64) (m, k float64) {
	if x < 0x1p-1022 {
		x = float64(x * 0x1p54)
		k = -54
	}
	const sqrtHalf = 0x1.6a09e667f3bcdp-1
	b := math.Float64bits(x)
	k += float64(int(b>>52) - 1022)
	m = math.Float64frombits(b&(1<<52-1) | 1022<<52)
	if m < sqrtHalf {
		return float64(2 * m), k - 1
	}
	return m, k
}

// Pow is xʸ for x ≥ 0, to within 1 unit in the last place for moderate results
// (|y·log x| < 50) and 8 at the ends of the range. A negative x gives NaN;
// Pow(x, 0) = Pow(1, y) = 1.
func Pow(x, y float64) float64 {
	switch {
	case y == 0 || x == 1:
		return 1
	case x == 0 || math.IsInf(x, 1) || math.IsInf(y, 0) || !(x > 0):
		return Exp(float64(y * Log(x)))
	}
	hi, lo := logSum(x)
	p := float64(y * hi)
	if math.IsInf(p, 0) {
		return Exp(p)
	}
	return expSum(p, math.FMA(y, lo, math.FMA(y, hi, -p)))
}
