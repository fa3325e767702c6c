package kernel

import "github.com/tandem-moe/tandem/kernel/detmath"

// SwiGLU is dst = silu(g)·u, where a row of gateUp is g followed by u.
func (c *CPU) SwiGLU(dst, gateUp Mat) {
	mustEqual("swiglu", "rows of dst", dst.Rows, gateUp.Rows)
	mustEqual("swiglu", "columns of the gate and up projections", gateUp.Cols, 2*dst.Cols)
	d, s := view(dst), view(gateUp)
	const cost = 4 // an element costs about four of a plain row operation
	c.eachRow(d.rows, cost*d.cols, func(r int) {
		row := s.row(r)
		swiGLURow(c.isa, d.row(r), row[:d.cols], row[d.cols:])
	})
}

// swiGLURowPortable is dst = silu(g)·u.
func swiGLURowPortable(dst, g, u []float32) {
	g, u = g[:len(dst)], u[:len(dst)]
	for i, x := range g {
		dst[i] = float32(detmath.SiLU32(x) * u[i])
	}
}
