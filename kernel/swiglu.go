package kernel

import "github.com/tandem-moe/tandem/kernel/detmath"

// SwiGLU is dst = silu(g)·u, or as p says, where a row of gateUp is g followed by u.
//
// Where p is not zero, each operation is rounded: a = Alpha·g', then
// (g' / (1 + exp(−a))) · (u' + Offset).
func (c *CPU) SwiGLU(dst, gateUp Mat, p SwiGLUParams) {
	mustEqual("swiglu", "rows of dst", dst.Rows, gateUp.Rows)
	mustEqual("swiglu", "columns of the gate and up projections", gateUp.Cols, 2*dst.Cols)
	d, s := view(dst), view(gateUp)
	const cost = 4 // an element costs about four of a plain row operation
	c.eachRow(d.rows, cost*d.cols, func(r int) {
		row := s.row(r)
		if p == (SwiGLUParams{}) {
			swiGLURow(c.isa, d.row(r), row[:d.cols], row[d.cols:])
		} else {
			p.row(d.row(r), row[:d.cols], row[d.cols:])
		}
	})
}

// swiGLURowPortable is dst = silu(g)·u.
func swiGLURowPortable(dst, g, u []float32) {
	g, u = g[:len(dst)], u[:len(dst)]
	for i, x := range g {
		dst[i] = float32(detmath.SiLU32(x) * u[i])
	}
}

// row is a row of a SwiGLU that is not the plain one.
func (p SwiGLUParams) row(dst, g, u []float32) {
	alpha, limit := p.Alpha, p.Limit
	if alpha == 0 {
		alpha = 1
	}
	if limit == 0 {
		limit = -negInf
	}
	g, u = g[:len(dst)], u[:len(dst)]
	for i, x := range g {
		y := u[i]
		if x > limit {
			x = limit
		}
		if y > limit {
			y = limit
		} else if y < -limit {
			y = -limit
		}
		gate := x / (1 + detmath.Exp32(-float32(alpha*x)))
		dst[i] = float32(gate * float32(y+p.Offset))
	}
}
