//go:build !amd64

package kernel

// multiplyRows adds k steps of rows' chains to acc.
func multiplyRows(_ ISA, t DType, rows, k int, a []float32, b []byte, acc []float32) {
	multiplyRowsPortable(t, rows, k, a, b, acc)
}

// multiplyRow is the product of one row and whole panels, added to acc.
func multiplyRow(_ ISA, t DType, panels int, a []float32, b []byte, acc []float32) {
	multiplyRowPortable(t, panels, a, b, acc)
}

// panelsAtOnce is how many panels multiplyRow does best.
func panelsAtOnce(ISA) int { return 1 }

func packPanel(_ ISA, t DType, in int, panel []byte, rows *[panelWidth][]byte) {
	packPanelPortable(t, 0, in, panel, rows)
}

func addRow(_ ISA, dst, a, b []float32) { addRowPortable(dst, a, b) }

func scaleRow(_ ISA, x []float32, s float32) { scaleRowPortable(x, s) }
