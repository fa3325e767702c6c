package kernel

import (
	"math"

	"github.com/tandem-moe/tandem/kernel/detmath"
)

// lanes are the partial results of a reduction: lane j has taken the elements j,
// j+Lanes, … in order.
type lanes [Lanes]float32

// sum folds the lanes by halves: 8, 4, 2, 1.
func (l *lanes) sum() float32 {
	for half := Lanes / 2; half > 0; half /= 2 {
		for j := range half {
			l[j] += l[j+half]
		}
	}
	return l[0]
}

var negInf = float32(math.Inf(-1))

// wholeLanes is the part of n elements that fills all lanes.
func wholeLanes(n int) int { return n &^ (Lanes - 1) }

// padLanes rounds n up to whole lanes.
func padLanes(n int) int { return wholeLanes(n + Lanes - 1) }

// maxPortable is the largest element, NaNs not counted; −Inf where there is none.
func maxPortable(x []float32) float32 {
	m := negInf
	for _, v := range x {
		if v > m {
			m = v
		}
	}
	return m
}

// sumSquaresPortable adds the squares of x to its lanes, as fused chains.
func sumSquaresPortable(l *lanes, x []float32) {
	for i, v := range x {
		l[i%Lanes] = detmath.FMA32(v, v, l[i%Lanes])
	}
}

// sumExpPortable adds exp(x−m) to the lanes.
func sumExpPortable(l *lanes, x []float32, m float32) {
	for i, v := range x {
		l[i%Lanes] += detmath.Exp32(v - m)
	}
}

// softmaxPortable replaces x by exp(x−max) and returns the maximum and the sum.
// The caller divides. Elements of −Inf become 0, unless all are.
func softmaxPortable(x []float32) (maximum, sum float32) {
	var l lanes
	m := maxPortable(x)
	for i, v := range x {
		x[i] = detmath.Exp32(v - m)
		l[i%Lanes] += x[i]
	}
	return m, l.sum()
}
