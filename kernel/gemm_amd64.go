package kernel

import "unsafe"

//go:generate go run -C ../tools ./asmgen -family gemm -out ../kernel/gemm_amd64.s -stubs ../kernel/gemm_stubs_amd64.go -pkg kernel

// Rows that the kernels multiply at once, and panels of a single row: what the
// registers hold.
const (
	avx2Rows     = 3
	avx2Panels   = 2
	avx512Rows   = 12
	avx512Panels = 4

	// rowAhead is how far before its use a single row asks for a line, in bytes:
	// the processor's own prefetchers stop at each page.
	rowAhead = 2048
)

// multiplyRows adds k steps of rows' chains to acc.
func multiplyRows(isa ISA, t DType, rows, k int, a []float32, b []byte, acc []float32) {
	switch {
	case isa == Portable:
		multiplyRowsPortable(t, rows, k, a, b, acc)
	case isa == AVX512:
		multiplyBlocks(isa, t, avx512Rows, rows, k, a, b, acc)
	case t == F32 && rows > avx2Rows && k > innerBlock/2:
		// Half of the block leaves the first-level cache room for its successor.
		const half = innerBlock / 2
		cut := half * panelWidth * 4
		multiplyBlocks(isa, t, avx2Rows, rows, half, a, b[:cut], acc)
		multiplyBlocks(isa, t, avx2Rows, rows, k-half, a[half:], b[cut:], acc)
	default:
		multiplyBlocks(isa, t, avx2Rows, rows, k, a, b, acc)
	}
}

// multiplyBlocks cuts rows into blocks of at most height. Meanwhile it asks for
// the memory that is needed next: where there are several passes over b, for
// what follows it, evenly, so that memory never rests.
func multiplyBlocks(isa ISA, t DType, height, rows, k int, a []float32, b []byte, acc []float32) {
	blocks := (rows + height - 1) / height
	at, step := uintptr(unsafe.Pointer(unsafe.SliceData(b))), len(b)/(k*blocks)
	next := at + rowAhead
	if blocks > 1 {
		next = at + uintptr(len(b))
	}
	for i := range blocks {
		lo, hi := i*rows/blocks, (i+1)*rows/blocks
		rowsKernel(isa, t, hi-lo, k, &a[lo*innerBlock], unsafe.SliceData(b), &acc[lo*panelWidth], next, step)
		next += uintptr(step * k)
	}
}

// rowsKernel calls the kernel for at most height rows.
func rowsKernel(isa ISA, t DType, rows, k int, a *float32, b *byte, acc *float32, next uintptr, step int) {
	switch {
	case isa == AVX512 && t == F32:
		rowsAVX512F32(rows, k, a, b, acc, next, step)
	case isa == AVX512 && t == BF16:
		rowsAVX512BF16(rows, k, a, b, acc, next, step)
	case isa == AVX512:
		rowsAVX512F16(rows, k, a, b, acc, next, step)
	case t == F32:
		rowsAVX2F32(rows, k, a, b, acc, next, step)
	case t == BF16:
		rowsAVX2BF16(rows, k, a, b, acc, next, step)
	default:
		rowsAVX2F16(rows, k, a, b, acc, next, step)
	}
}

// panelsAtOnce is how many panels multiplyRow does best.
func panelsAtOnce(isa ISA) int {
	switch isa {
	case AVX2:
		return avx2Panels
	case AVX512:
		return avx512Panels
	}
	return 1
}

// multiplyRow adds the product of one row and one or panelsAtOnce panels to acc.
func multiplyRow(isa ISA, t DType, panels int, a []float32, b []byte, acc []float32) {
	switch {
	case isa == Portable:
		multiplyRowPortable(t, panels, a, b, acc)
	case len(a) == 0:
	case panels == 1:
		rowsKernel(isa, t, 1, len(a), &a[0], &b[0], &acc[0], uintptr(unsafe.Pointer(&b[0]))+rowAhead, panelWidth*packedSize(t))
	default:
		rowKernel(isa, t, len(a), &a[0], &b[0], len(b)/panels, &acc[0])
	}
}

// rowKernel calls the kernel for several panels.
func rowKernel(isa ISA, t DType, k int, a *float32, b *byte, stride int, acc *float32) {
	switch {
	case isa == AVX512 && t == F32:
		rowAVX512F32(k, a, b, stride, acc)
	case isa == AVX512 && t == BF16:
		rowAVX512BF16(k, a, b, stride, acc)
	case isa == AVX512:
		rowAVX512F16(k, a, b, stride, acc)
	case t == F32:
		rowAVX2F32(k, a, b, stride, acc)
	case t == BF16:
		rowAVX2BF16(k, a, b, stride, acc)
	default:
		rowAVX2F16(k, a, b, stride, acc)
	}
}
