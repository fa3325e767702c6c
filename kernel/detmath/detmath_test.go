package detmath

import (
	"math"
	"math/big"
	"math/rand/v2"
	"testing"

	"github.com/stretchr/testify/require"
)

// special are the float32 that arithmetic goes wrong on.
var special = []float32{
	0, float32(math.Copysign(0, -1)), 1, -1, 1.5, 0x1.fffffep-1, 0x1.000002p0, 3,
	math.MaxFloat32, -math.MaxFloat32, math.SmallestNonzeroFloat32, -math.SmallestNonzeroFloat32,
	0x1p-126, -0x1p-126, 0x1.fffffcp-127, 0x1p-63, 0x1p-75, 0x1p-100, 0x1p64, 0x1p100,
	float32(math.Inf(1)), float32(math.Inf(-1)), float32(math.NaN()),
}

// operands calls f with every triple of special values, with random bits, and
// with sums that lie close to a tie.
func operands(f func(x, y, z float32)) {
	for _, x := range special {
		for _, y := range special {
			for _, z := range special {
				f(x, y, z)
			}
		}
	}
	r := rand.New(rand.NewPCG(1, 2))
	for range 200_000 {
		x, y := randomBits(r), randomBits(r)
		f(x, y, randomBits(r))
		f(x, y, -float32(x*y)) // cancellation: what is left is the product's error
		f(x, 1, nearTie(r, x))
		f(0x1p-60*x, 0x1p-60, nearTie(r, float32(0x1p-120*x)))
	}
}

func randomBits(r *rand.Rand) float32 { return math.Float32frombits(r.Uint32()) }

// nearTie is about half a unit in the last place of x times a power of two.
func nearTie(r *rand.Rand, x float32) float32 {
	half := math.Float32frombits(math.Float32bits(x)&0x7f80_0000) * 0x1p-24
	return half * float32(r.IntN(5)-2) * (1 + float32(r.IntN(3)-1)*0x1p-23)
}

// sameFloat32 takes all NaNs as one.
func sameFloat32(a, b float32) bool {
	return math.Float32bits(a) == math.Float32bits(b) || a != a && b != b
}

// exactFMA is the definition: the exact value, rounded once.
func exactFMA(x, y, z float32) float32 {
	p := float64(x) * float64(y)
	if s := p + float64(z); s == 0 || math.IsInf(s, 0) || s != s {
		return float32(s)
	}
	sum := new(big.Float).SetPrec(2000).SetFloat64(p)
	sum.Add(sum, new(big.Float).SetFloat64(float64(z)))
	out, _ := sum.Float32()
	return out
}

func TestFMA32IsExact(t *testing.T) {
	operands(func(x, y, z float32) {
		if got, want := FMA32(x, y, z), exactFMA(x, y, z); !sameFloat32(got, want) {
			t.Fatalf("FMA32(%x, %x, %x) = %x, want %x", x, y, z, got, want)
		}
	})
}

// TestFMA32IsTheMachines compares with the machine's instruction, which the
// compiler uses for x*y + z on arm64 and with GOAMD64=v3.
func TestFMA32IsTheMachines(t *testing.T) {
	if machineFMA(0x1.000002p0, 0x1.000002p0, -0x1.000004p0) == 0 {
		t.Skip("this build does not fuse x*y + z; run with GOAMD64=v3 or on arm64")
	}
	operands(func(x, y, z float32) {
		if got, want := FMA32(x, y, z), machineFMA(x, y, z); !sameFloat32(got, want) {
			t.Fatalf("FMA32(%x, %x, %x) = %x, the machine gives %x", x, y, z, got, want)
		}
	})
}

//go:noinline
func machineFMA(x, y, z float32) float32 { return x*y + z }

func TestExp32Specials(t *testing.T) {
	inf := float32(math.Inf(1))
	require.Equal(t, float32(0), Exp32(-inf))
	require.Equal(t, inf, Exp32(inf))
	require.Equal(t, inf, Exp32(88.73))
	require.Less(t, Exp32(88.72), inf)
	require.Equal(t, float32(math.SmallestNonzeroFloat32), Exp32(-103.5))
	require.Equal(t, float32(0), Exp32(-104))
	require.Equal(t, float32(1), Exp32(0))
	require.NotEqual(t, Exp32(float32(math.NaN())), Exp32(float32(math.NaN())))
}

// ulps32 is the error of got in units in the last place of want's float32.
func ulps32(got float32, want float64) float64 {
	_, e := math.Frexp(want)
	return math.Abs(float64(got)-want) / math.Ldexp(1, max(e-24, -149))
}

func TestExp32Error(t *testing.T) {
	worst := 0.0
	for b := uint32(0); b < 0x42d0_0000; b += 997 {
		x := math.Float32frombits(b)
		for _, x := range []float32{x, -x} {
			if want := math.Exp(float64(x)); want < math.MaxFloat32 {
				worst = max(worst, ulps32(Exp32(x), want))
			}
		}
	}
	require.Less(t, worst, 1.0, "units in the last place")
}

func TestSigmoidError(t *testing.T) {
	for x := float32(-80); x < 80; x += 0.0137 {
		want := 1 / (1 + math.Exp(-float64(x)))
		require.Less(t, ulps32(Sigmoid32(x), want), 3.0, "sigmoid(%v)", x)
		require.Less(t, ulps32(SiLU32(x), float64(x)*want), 3.0, "silu(%v)", x)
	}
	require.Equal(t, float32(0), Sigmoid32(float32(math.Inf(-1))))
	require.Equal(t, float32(1), Sigmoid32(float32(math.Inf(1))))
}

// ulps64 is the error of got in units in the last place of want.
func ulps64(got float64, want *big.Float) float64 {
	w, _ := want.Float64()
	_, e := math.Frexp(w)
	diff := new(big.Float).SetPrec(300).Sub(new(big.Float).SetFloat64(got), want)
	d, _ := diff.Float64()
	return math.Abs(d) / math.Ldexp(1, e-53)
}

func newBig(x float64) *big.Float { return new(big.Float).SetPrec(300).SetFloat64(x) }

// bigExp is the Taylor series of e^x after halving x often enough.
func bigExp(x *big.Float) *big.Float {
	const halvings = 40
	r := new(big.Float).SetMantExp(x, -halvings)
	sum, term := newBig(1), newBig(1)
	for i := 1; i < 12; i++ {
		term.Mul(term, r)
		term.Quo(term, newBig(float64(i)))
		sum.Add(sum, term)
	}
	for range halvings {
		sum.Mul(sum, sum)
	}
	return sum
}

// bigLog improves float64's logarithm by Newton steps on bigExp.
func bigLog(x float64) *big.Float {
	y := newBig(math.Log(x))
	for range 3 {
		e := bigExp(new(big.Float).SetPrec(300).Neg(y))
		step := e.Mul(e, newBig(x))
		y.Add(y, step.Sub(step, newBig(1)))
	}
	return y
}

func TestExpAndLogError(t *testing.T) {
	r := rand.New(rand.NewPCG(3, 4))
	for range 3000 {
		x := (r.Float64() - 0.5) * 1400
		require.LessOrEqual(t, ulps64(Exp(x), bigExp(newBig(x))), 1.0, "exp(%v)", x)
		x = math.Ldexp(1+r.Float64(), r.IntN(2000)-1000)
		require.LessOrEqual(t, ulps64(Log(x), bigLog(x)), 0.53, "log(%v)", x)
		x = 0.5 + 1.5*r.Float64()
		require.LessOrEqual(t, ulps64(Log(x), bigLog(x)), 0.53, "log(%v)", x)
	}
}

func TestPowError(t *testing.T) {
	r := rand.New(rand.NewPCG(5, 6))
	for range 3000 {
		x := math.Exp((r.Float64() - 0.5) * 40)
		y := (r.Float64() - 0.5) * 2.5
		want := bigExp(new(big.Float).SetPrec(300).Mul(bigLog(x), newBig(y)))
		require.LessOrEqual(t, ulps64(Pow(x, y), want), 1.0, "pow(%v, %v)", x, y)
	}
}

func TestSpecials64(t *testing.T) {
	inf, nan := math.Inf(1), math.NaN()
	same := func(want, got float64) {
		t.Helper()
		if want != got && !(want != want && got != got) {
			t.Errorf("got %v, want %v", got, want)
		}
	}
	// Some of package math's assembly is wrong at the ends of the range, so
	// that those values stand here.
	for x, want := range map[float64]float64{
		inf: inf, -inf: 0, nan: nan, 0: 1, 1000: inf, -1000: 0,
		709.7: 1.6549840276802644e+308, -745: 0x1p-1074,
	} {
		same(want, Exp(x))
	}
	for x, want := range map[float64]float64{
		inf: inf, nan: nan, 0: -inf, 1: 0, -1: nan, 0x1p-1074: -744.4400719213812,
	} {
		same(want, Log(x))
	}
	for _, x := range []float64{inf, nan, 0, 0.5, 2} {
		for _, y := range []float64{0, 1, 2, -1, inf, -inf} {
			same(math.Pow(x, y), Pow(x, y))
		}
	}
	same(nan, Pow(-2, 2))
	for _, x := range []float64{inf, -inf, nan} {
		s, c := SinCos(x)
		same(nan, s)
		same(nan, c)
	}
}

// bigSinCos is the Taylor series after subtracting a multiple of π/2, which is
// given to 170 digits.
func bigSinCos(x float64) (sin, cos *big.Float) {
	halfPi, _, err := big.ParseFloat("1.57079632679489661923132169163975144209858469968755291048747229615390820314310449931401741267105853399107404325664115332354692230477529111586267970406424055872514205135096926055277982231147447746519098", 10, 600, big.ToNearestEven)
	if err != nil {
		panic(err)
	}
	v := new(big.Float).SetPrec(600).SetFloat64(x)
	n := math.Floor(x/(math.Pi/2) + 0.5)
	r := v.Sub(v, new(big.Float).SetPrec(600).Mul(halfPi, new(big.Float).SetFloat64(n)))
	c, s := newBig(1), new(big.Float).SetPrec(600).Set(r)
	term := new(big.Float).SetPrec(600).Set(r)
	for i := 2; i < 40; i++ {
		term.Mul(term, r)
		term.Quo(term, newBig(float64(i)))
		target := c
		if i%2 == 1 {
			target = s
		}
		if i%4 >= 2 {
			target.Sub(target, term)
		} else {
			target.Add(target, term)
		}
	}
	neg := func(f *big.Float) *big.Float { return new(big.Float).Neg(f) }
	switch int64(n) & 3 {
	case 0:
		return s, c
	case 1:
		return c, neg(s)
	case 2:
		return neg(s), neg(c)
	}
	return neg(c), s
}

func TestSinCosError(t *testing.T) {
	r := rand.New(rand.NewPCG(7, 8))
	check := func(x float64) {
		s, c := SinCos(x)
		ws, wc := bigSinCos(x)
		require.LessOrEqual(t, ulps64(s, ws), 1.0, "sin(%v)", x)
		require.LessOrEqual(t, ulps64(c, wc), 1.0, "cos(%v)", x)
	}
	for range 3000 {
		check((r.Float64() - 0.5) * 8)
		check(float64(float32(r.IntN(1_000_000)) * r.Float32()))
		check(float64(r.IntN(1 << 30)))
	}
	for n := 1.0; n < 700_000; n *= 1.37 { // next to the zeros
		check(math.Floor(n) * math.Pi / 2)
		check(float64(float32(math.Floor(n) * math.Pi / 2)))
	}
}
