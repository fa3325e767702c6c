package detmath

import (
	"encoding/binary"
	"fmt"
	"hash/fnv"
	"math"
	"math/rand/v2"
	"strings"
	"testing"

	"github.com/tandem-moe/tandem/internal/golden"
)

// TestGoldenBits holds every function to the bits recorded on linux/amd64, so
// that the same test on another architecture or GOAMD64 level shows that they
// agree.
func TestGoldenBits(t *testing.T) {
	golden.File(t, "golden.txt", goldenLines())
}

func goldenLines() string {
	var b strings.Builder
	line := func(name string, f func(r *rand.Rand) float64) {
		r, h := rand.New(rand.NewPCG(11, 12)), fnv.New64a()
		for range 20_000 {
			binary.Write(h, binary.LittleEndian, canonical(f(r)))
		}
		fmt.Fprintf(&b, "%s %016x\n", name, h.Sum64())
	}
	line("FMA32", func(r *rand.Rand) float64 {
		x, y := randomBits(r), randomBits(r)
		return float64(FMA32(x, y, nearTie(r, float32(x*y))))
	})
	line("Exp32", func(r *rand.Rand) float64 { return float64(Exp32(spread32(r, 210))) })
	line("Sigmoid32", func(r *rand.Rand) float64 { return float64(Sigmoid32(spread32(r, 210))) })
	line("SiLU32", func(r *rand.Rand) float64 { return float64(SiLU32(spread32(r, 210))) })
	line("Log32", func(r *rand.Rand) float64 { return float64(Log32(randomBits(r))) })
	line("Exp", func(r *rand.Rand) float64 { return Exp(float64((r.Float64() - 0.5) * 1500)) })
	line("Log", func(r *rand.Rand) float64 { return Log(math.Float64frombits(r.Uint64())) })
	line("Pow", func(r *rand.Rand) float64 {
		return Pow(float64(r.Float64()*1e6), float64((r.Float64()-0.5)*4))
	})
	line("Sin", func(r *rand.Rand) float64 { s, _ := SinCos(float64(r.Float64() * 1e6)); return s })
	line("Cos", func(r *rand.Rand) float64 { _, c := SinCos(float64(r.Float64() * 1e6)); return c })
	return b.String()
}

// spread32 is uniform over an interval of the given width around 0.
func spread32(r *rand.Rand, width float32) float32 { return float32((r.Float32() - 0.5) * width) }

// canonical is x's bits, with one pattern for all NaNs.
func canonical(x float64) uint64 {
	if x != x {
		return 0x7ff8_0000_0000_0000
	}
	return math.Float64bits(x)
}
