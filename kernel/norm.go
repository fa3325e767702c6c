package kernel

import (
	"fmt"
	"math"
)

// RMSNorm normalises each of the groups equal parts of each row by its root mean
// square and multiplies by w, which has Cols/groups elements or Cols. dst may be
// src.
//
// The sum of squares is the fixed tree of fused chains; scale = 1/√(sum/n + eps);
// an element becomes (x·scale)·w, each product rounded.
func (c *CPU) RMSNorm(dst, src Mat, w Buffer, groups int, eps float32) {
	mustEqual("rms norm", "rows of dst", dst.Rows, src.Rows)
	mustEqual("rms norm", "columns of dst", dst.Cols, src.Cols)
	d, s, weights := view(dst), view(src), f32s(w)
	if groups < 1 || s.cols%groups != 0 {
		panic(fmt.Sprintf("kernel: rms norm: %d columns in %d groups", s.cols, groups))
	}
	n := s.cols / groups
	if len(weights) != n && len(weights) != s.cols {
		panic(fmt.Sprintf("kernel: rms norm: %d weights, want %d or %d", len(weights), n, s.cols))
	}
	step := n
	if len(weights) == n {
		step = 0
	}
	c.eachRow(s.rows, s.cols, func(r int) {
		to, from := d.row(r), s.row(r)
		for g := range groups {
			part := from[g*n : (g+1)*n]
			scale := rmsScale(c.isa, part, eps)
			normRow(c.isa, to[g*n:(g+1)*n], part, weights[g*step:g*step+n], scale)
		}
	})
}

// rmsScale is 1/√(mean of squares + eps). The square root of a float32 taken in
// float64 and narrowed is the correctly rounded one.
func rmsScale(isa ISA, x []float32, eps float32) float32 {
	mean := sumSquares(isa, x) / float32(len(x))
	return 1 / float32(math.Sqrt(float64(mean+eps)))
}

// sumSquares is the sum of x's squares.
func sumSquares(isa ISA, x []float32) float32 {
	var l lanes
	whole := wholeLanes(len(x))
	if whole > 0 {
		sumSquaresLanes(isa, &l, x[:whole])
	}
	sumSquaresPortable(&l, x[whole:])
	return l.sum()
}

// normRowPortable is dst = (x·scale)·w.
func normRowPortable(dst, x, w []float32, scale float32) {
	x, w = x[:len(dst)], w[:len(dst)]
	for i, v := range x {
		dst[i] = float32(float32(v*scale) * w[i])
	}
}
