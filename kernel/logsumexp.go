package kernel

import (
	"math"

	"github.com/tandem-moe/tandem/kernel/detmath"
)

// LogSumExp writes the logarithm of the sum of each row's exponentials to the
// first column of dst; NaN where a logit is not finite. It is max +
// log(Σ exp(x−max)), the sum by the fixed tree.
func (c *CPU) LogSumExp(dst, logits Mat) {
	mustEqual("log-sum-exp", "rows of dst", dst.Rows, logits.Rows)
	d, m := view(dst), view(logits)
	const cost = 2 // of an element, in plain row operations
	c.eachRow(m.rows, cost*m.cols, func(r int) { d.row(r)[0] = logSumExp(c.isa, m.row(r)) })
}

func logSumExp(isa ISA, x []float32) float32 {
	// The last, partial vector is done apart; −Inf adds nothing.
	whole := wholeLanes(len(x))
	tail := x[whole:]
	low, high := extremes(isa, x[:whole])
	for _, v := range tail {
		low, high = min(low, v), max(high, v)
	}
	if low == negInf || high == -negInf || low != low {
		return float32(math.NaN())
	}
	var l lanes
	sumExpLanes(isa, &l, x[:whole], high)
	sumExpPortable(&l, tail, high)
	return high + detmath.Log32(l.sum())
}

// extremesPortable is the smallest and the largest element, NaNs not counted.
func extremesPortable(x []float32) (low, high float32) {
	low = -negInf
	for _, v := range x {
		if v < low {
			low = v
		}
	}
	return low, maxPortable(x)
}
