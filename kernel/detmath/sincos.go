package detmath

import "math"

// π/2 in three parts of 53 bits.
const (
	halfPi1 = 0x1.921fb54442d18p+0
	halfPi2 = 0x1.1a62633145c07p-54
	halfPi3 = -0x1.f1976b7ed8fbcp-110

	twoOverPi = 0x1.45f306dc9c883p-1
)

// SinCos gives the sine and the cosine of x radians to within 1 unit in the last
// place for |x| up to 2³⁰, which holds the angles of every rotary table. Beyond
// that the error grows with |x|; Inf and NaN give NaN.
func SinCos(x float64) (sin, cos float64) {
	if math.IsInf(x, 0) || x != x {
		return math.NaN(), math.NaN()
	}
	n := math.Floor(math.FMA(x, twoOverPi, 0.5))
	hi, lo := reduce(x, n)
	s, c := sinReduced(hi, lo), cosReduced(hi, lo)
	switch n - float64(4*math.Floor(n/4)) {
	case 0:
		return s, c
	case 1:
		return c, -s
	case 2:
		return -s, -c
	}
	return -c, s
}

// reduce is x − n·π/2 as an unevaluated sum. The first fused step is exact: its
// result is below 1 and a multiple of the last bit of π/2's first part.
func reduce(x, n float64) (hi, lo float64) {
	r := math.FMA(-n, halfPi1, x)
	p := float64(n * halfPi2)
	pLo := math.FMA(n, halfPi3, math.FMA(n, halfPi2, -p))
	hi = r - p
	return hi, twoSumError(hi, r, -p) - pLo
}

// sinReduced is sin(x+y) for |x+y| ≤ π/4 and |y| far below |x| (FreeBSD's
// k_sin.c).
func sinReduced(x, y float64) float64 {
	const (
		s1 = -1.66666666666666324348e-01
		s2 = 8.33333333332248946124e-03
		s3 = -1.98412698298579493134e-04
		s4 = 2.75573137070700676789e-06
		s5 = -2.50507602534068634195e-08
		s6 = 1.58969099521155010221e-10
	)
	z := float64(x * x)
	v := float64(z * x)
	r := poly(z, s2, s3, s4, s5, s6)
	return x - (math.FMA(z, math.FMA(-v, r, float64(0.5*y)), -y) - float64(v*s1))
}

// cosReduced is cos(x+y) for |x+y| ≤ π/4 and |y| far below |x| (FreeBSD's
// k_cos.c).
func cosReduced(x, y float64) float64 {
	const (
		c1 = 4.16666666666666019037e-02
		c2 = -1.38888888888741095749e-03
		c3 = 2.48015872894767294178e-05
		c4 = -2.75573143513906633035e-07
		c5 = 2.08757232129817482790e-09
		c6 = -1.13596475577881948265e-11
	)
	z := float64(x * x)
	r := float64(z * poly(z, c1, c2, c3, c4, c5, c6))
	half := float64(0.5 * z)
	w := 1 - half
	return w + (((1 - w) - half) + math.FMA(z, r, -float64(x*y)))
}
