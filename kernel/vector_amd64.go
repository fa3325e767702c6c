package kernel

//go:generate go run -C ../tools ./asmgen -family vector -out ../kernel/vector_amd64.s -stubs ../kernel/vector_stubs_amd64.go -pkg kernel

// vectorBlocks is how many blocks of Lanes elements of n the assembly takes, and
// where the rest begins, which the portable version does.
func vectorBlocks(isa ISA, n int) (blocks, rest int) {
	if isa == Portable {
		return 0, 0
	}
	return n / Lanes, wholeLanes(n)
}

// sumSquaresLanes adds the squares of x, whole lanes, to l.
func sumSquaresLanes(isa ISA, l *lanes, x []float32) {
	blocks, rest := vectorBlocks(isa, len(x))
	switch {
	case blocks == 0:
	case isa == AVX512:
		sumSquaresAVX512(blocks, &x[0], &l[0])
	default:
		sumSquaresAVX2(blocks, &x[0], &l[0])
	}
	sumSquaresPortable(l, x[rest:])
}

// normRow is dst = (x·scale)·w.
func normRow(isa ISA, dst, x, w []float32, scale float32) {
	blocks, rest := vectorBlocks(isa, len(dst))
	switch {
	case blocks == 0:
	case isa == AVX512:
		normRowAVX512(blocks, &dst[0], &x[0], &w[0], scale)
	default:
		normRowAVX2(blocks, &dst[0], &x[0], &w[0], scale)
	}
	normRowPortable(dst[rest:], x[rest:], w[rest:], scale)
}

// rotate turns the pairs (a[i], b[i]) by the given angles.
func rotate(isa ISA, a, b, cos, sin []float32) {
	blocks, rest := vectorBlocks(isa, len(a))
	switch {
	case blocks == 0:
	case isa == AVX512:
		rotateAVX512(blocks, &a[0], &b[0], &cos[0], &sin[0])
	default:
		rotateAVX2(blocks, &a[0], &b[0], &cos[0], &sin[0])
	}
	rotatePortable(a[rest:], b[rest:], cos[rest:], sin[rest:])
}

// swiGLURow is dst = silu(g)·u.
func swiGLURow(isa ISA, dst, g, u []float32) {
	blocks, rest := vectorBlocks(isa, len(dst))
	switch {
	case blocks == 0:
	case isa == AVX512:
		swiGLUAVX512(blocks, &dst[0], &g[0], &u[0])
	default:
		swiGLUAVX2(blocks, &dst[0], &g[0], &u[0])
	}
	swiGLURowPortable(dst[rest:], g[rest:], u[rest:])
}

// softmax replaces x, whole lanes, by exp(x−maximum) and returns the sum.
func softmax(isa ISA, x []float32) (maximum, sum float32) {
	blocks, _ := vectorBlocks(isa, len(x))
	switch {
	case blocks == 0:
		return softmaxPortable(x)
	case isa == AVX512:
		return softmaxAVX512(blocks, &x[0])
	}
	return softmaxAVX2(blocks, &x[0])
}

// extremes is the smallest and the largest element of x, whole lanes, NaNs not
// counted.
func extremes(isa ISA, x []float32) (low, high float32) {
	blocks, _ := vectorBlocks(isa, len(x))
	switch {
	case blocks == 0:
		return extremesPortable(x)
	case isa == AVX512:
		return extremesAVX512(blocks, &x[0])
	}
	return extremesAVX2(blocks, &x[0])
}

// sumExpLanes adds exp(x−m) of x, whole lanes, to l.
func sumExpLanes(isa ISA, l *lanes, x []float32, m float32) {
	blocks, rest := vectorBlocks(isa, len(x))
	switch {
	case blocks == 0:
	case isa == AVX512:
		sumExpAVX512(blocks, &x[0], &l[0], m)
	default:
		sumExpAVX2(blocks, &x[0], &l[0], m)
	}
	sumExpPortable(l, x[rest:], m)
}

// divideRow is dst = x/d.
func divideRow(isa ISA, dst, x []float32, d float32) {
	blocks, rest := vectorBlocks(isa, len(dst))
	switch {
	case blocks == 0:
	case isa == AVX512:
		divideRowAVX512(blocks, &dst[0], &x[0], d)
	default:
		divideRowAVX2(blocks, &dst[0], &x[0], d)
	}
	divideRowPortable(dst[rest:], x[rest:], d)
}

// rescaleAdd is x = fma(y, g, x·f).
func rescaleAdd(isa ISA, x, y []float32, f, g float32) {
	blocks, rest := vectorBlocks(isa, len(x))
	switch {
	case blocks == 0:
	case isa == AVX512:
		rescaleAddAVX512(blocks, &x[0], &y[0], f, g)
	default:
		rescaleAddAVX2(blocks, &x[0], &y[0], f, g)
	}
	rescaleAddPortable(x[rest:], y[rest:], f, g)
}
