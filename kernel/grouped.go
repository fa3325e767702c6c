package kernel

import (
	"fmt"
	"runtime"
)

// GroupedLinear is Linear of rows offsets[g] … offsets[g+1]-1 with w[g] and bias[g].
// A nil bias means that no group has one, and a nil element that this group has none.
func (c *CPU) GroupedLinear(dst, src Mat, w []Weight, bias []Buffer, offsets []int32) {
	mustEqual("grouped linear", "rows of dst", dst.Rows, src.Rows)
	mustEqual("grouped linear", "offsets", len(offsets), len(w)+1)
	if bias != nil {
		mustEqual("grouped linear", "biases", len(bias), len(w))
	}
	p := product{isa: c.isa, dst: view(dst), src: view(src)}
	for i := range w {
		g := group{w: cpuWeight(w[i]), lo: int(offsets[i]), hi: int(offsets[i+1])}
		if g.lo < 0 || g.lo > g.hi || g.hi > src.Rows {
			panic(fmt.Sprintf("kernel: grouped linear: rows %d to %d of %d", g.lo, g.hi, src.Rows))
		}
		mustEqual("grouped linear", "columns of src", src.Cols, g.w.in)
		mustEqual("grouped linear", "columns of dst", dst.Cols, g.w.out)
		if g.rows() == 0 {
			continue
		}
		if bias != nil {
			g.setBias("grouped linear", bias[i])
		}
		p.groups = append(p.groups, g)
	}
	c.multiply(p)
	runtime.KeepAlive(w)
}
