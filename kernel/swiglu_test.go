package kernel

import (
	"testing"

	"github.com/tandem-moe/tandem/kernel/detmath"
)

func TestSwiGLU(t *testing.T) {
	eachDevice(t, func(t *testing.T, dev *CPU) {
		r := newRand(t, 7)
		for range 20 {
			rows, cols := 1+r.IntN(30), 1+r.IntN(200)
			x := randomFloats(r, rows*2*cols, r.IntN(2) == 0)
			for i := range x {
				x[i] *= 30 // the exponential's whole range
			}
			var want []float32
			for i := range rows * cols {
				row := x[i/cols*2*cols:]
				want = append(want, float32(detmath.SiLU32(row[i%cols])*row[cols+i%cols]))
			}
			dst := upload(t, dev, rows, cols, make([]float32, rows*cols))
			dev.SwiGLU(dst, upload(t, dev, rows, 2*cols, x))
			requireSameBits(t, want, download(dst))
		}
	})
}
