package kernel

//go:generate go run -C ../tools ./asmgen -family rows -out ../kernel/rows_amd64.s -stubs ../kernel/rows_stubs_amd64.go -pkg kernel

// addRow is dst = a + b.
func addRow(isa ISA, dst, a, b []float32) {
	whole := 0
	if isa != Portable && len(dst) >= 8 {
		whole = len(dst) &^ 7
		addAVX2(whole/8, &dst[0], &a[0], &b[0])
	}
	addRowPortable(dst[whole:], a[whole:], b[whole:])
}

// scaleRow multiplies x by s.
func scaleRow(isa ISA, x []float32, s float32) {
	whole := 0
	if isa != Portable && len(x) >= 8 {
		whole = len(x) &^ 7
		scaleAVX2(whole/8, &x[0], s)
	}
	scaleRowPortable(x[whole:], s)
}
