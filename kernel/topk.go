package kernel

import "fmt"

// TopK takes the softmax of each row of logits over all columns and writes the
// TopK best columns, best first and ties to the lower, to idx and their weights
// to weight. Where a logit is not finite the choice is valid but meaningless:
// LogSumExp of the model's output shows it.
//
// A probability is exp(x−max)/sum in f32, the sum by the fixed tree; with
// Normalize a weight is divided by the weights' sum, best first.
func (c *CPU) TopK(idx, weight Buffer, logits Mat, p RouterParams) {
	m, indices, weights := view(logits), i32s(idx), f32s(weight)
	k := p.TopK
	if k < 1 || k > m.cols {
		panic(fmt.Sprintf("kernel: top-k: %d of %d columns", k, m.cols))
	}
	if n := m.rows * k; len(indices) < n || len(weights) < n {
		panic(fmt.Sprintf("kernel: top-k: room for %d indices and %d weights, want %d", len(indices), len(weights), n))
	}
	const cost = 8 // of an element, in plain row operations
	c.parallel(m.rows, worthSharingRows/(cost*m.cols+1)+1, func(lo, hi int) {
		probabilities := make([]float32, padLanes(m.cols))
		for r := lo; r < hi; r++ {
			softmaxRow(c.isa, probabilities, m.row(r))
			i, w := indices[r*k:(r+1)*k], weights[r*k:(r+1)*k]
			best(i, w, probabilities[:m.cols])
			if p.Normalize {
				normalize(w)
			}
		}
	})
}

// softmaxRow writes the softmax of x to dst, which is padded to whole lanes.
func softmaxRow(isa ISA, dst, x []float32) {
	for i := copy(dst, x); i < len(dst); i++ {
		dst[i] = negInf
	}
	_, sum := softmax(isa, dst)
	divideRow(isa, dst, dst, sum)
}

// best chooses the len(idx) largest elements of p, in order and ties to the
// lower index; where nothing compares (NaN), the first.
func best(idx []int32, value, p []float32) {
	n := 0
	for i, v := range p {
		if n == len(idx) && !(v > value[n-1]) {
			continue
		}
		at := min(n, len(idx)-1)
		for ; at > 0 && v > value[at-1]; at-- {
			idx[at], value[at] = idx[at-1], value[at-1]
		}
		idx[at], value[at] = int32(i), v
		n = min(n+1, len(idx))
	}
}

// normalize divides weights by their sum.
func normalize(w []float32) {
	sum := w[0]
	for _, v := range w[1:] {
		sum += v
	}
	for i := range w {
		w[i] /= sum
	}
}
