package kernel

// Float32s views an F32 buffer that the host can address as its elements: for
// loading, sampling and tests. What they hold is defined as for Buffer.Bytes.
func Float32s(b Buffer) []float32 {
	if b.DType() != F32 {
		panic("kernel: Float32s of a buffer of " + b.DType().String())
	}
	return castSlice[float32](b.Bytes())
}
