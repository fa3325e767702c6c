package kernel

//go:generate go run -C ../tools ./asmgen -family coded -out ../kernel/coded_amd64.s -stubs ../kernel/coded_stubs_amd64.go -pkg kernel

// maxBits is the largest of the elements' bits without their signs.
func maxBits(isa ISA, x []float32) (bits uint32) {
	blocks, rest := vectorBlocks(isa, len(x))
	switch {
	case blocks == 0:
	case isa == AVX512:
		bits = maxBitsAVX512(blocks, &x[0])
	default:
		bits = maxBitsAVX2(blocks, &x[0])
	}
	return max(bits, maxBitsPortable(x[rest:]))
}

// quantizeRow rounds x·inverse, of magnitudes up to 127, to integers.
func quantizeRow(isa ISA, dst []int8, x []float32, inverse float32) {
	blocks, rest := vectorBlocks(isa, len(x))
	switch {
	case blocks == 0:
	case isa == AVX512:
		quantizeAVX512(blocks, &dst[0], &x[0], inverse)
	default:
		quantizeAVX2(blocks, &dst[0], &x[0], inverse)
	}
	quantizeRowPortable(dst[rest:], x[rest:], inverse)
}

// dequantizeRow is dst = x·scale.
func dequantizeRow(isa ISA, dst []float32, x []int8, scale float32) {
	blocks, rest := vectorBlocks(isa, len(x))
	switch {
	case blocks == 0:
	case isa == AVX512:
		dequantizeAVX512(blocks, &dst[0], &x[0], scale)
	default:
		dequantizeAVX2(blocks, &dst[0], &x[0], scale)
	}
	dequantizeRowPortable(dst[rest:], x[rest:], scale)
}

// narrowBF16Row rounds x to bfloat16.
func narrowBF16Row(isa ISA, dst []uint16, x []float32) {
	blocks, rest := vectorBlocks(isa, len(x))
	switch {
	case blocks == 0:
	case isa == AVX512:
		narrowBF16AVX512(blocks, &dst[0], &x[0])
	default:
		narrowBF16AVX2(blocks, &dst[0], &x[0])
	}
	narrowBF16RowPortable(dst[rest:], x[rest:])
}

// widenBF16Row widens x.
func widenBF16Row(isa ISA, dst []float32, x []uint16) {
	blocks, rest := vectorBlocks(isa, len(x))
	switch {
	case blocks == 0:
	case isa == AVX512:
		widenBF16AVX512(blocks, &dst[0], &x[0])
	default:
		widenBF16AVX2(blocks, &dst[0], &x[0])
	}
	widenBF16RowPortable(dst[rest:], x[rest:])
}
