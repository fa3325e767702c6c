//go:build !amd64

package kernel

// On other machines the portable versions are the only ones.

func maxBits(_ ISA, x []float32) uint32 { return maxBitsPortable(x) }

func quantizeRow(_ ISA, dst []int8, x []float32, inverse float32) {
	quantizeRowPortable(dst, x, inverse)
}

func dequantizeRow(_ ISA, dst []float32, x []int8, scale float32) {
	dequantizeRowPortable(dst, x, scale)
}

func narrowBF16Row(_ ISA, dst []uint16, x []float32) { narrowBF16RowPortable(dst, x) }

func widenBF16Row(_ ISA, dst []float32, x []uint16) { widenBF16RowPortable(dst, x) }
