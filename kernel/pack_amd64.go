package kernel

import "unsafe"

//go:generate go run -C ../tools ./asmgen -family pack -out ../kernel/pack_amd64.s -stubs ../kernel/pack_stubs_amd64.go -pkg kernel

// packPanel transposes panelWidth rows of in elements to a panel.
func packPanel(isa ISA, t DType, in int, panel []byte, rows *[panelWidth][]byte) {
	blocks := in / 8
	if isa == Portable || blocks == 0 {
		packPanelPortable(t, 0, in, panel, rows)
		return
	}
	var columns [panelWidth]*byte
	for c, row := range rows {
		columns[columnAt(t, c)] = unsafe.SliceData(row)
	}
	if packedSize(t) == 4 {
		pack4AVX2(blocks, unsafe.SliceData(panel), &columns)
	} else {
		pack2AVX2(blocks, unsafe.SliceData(panel), &columns)
	}
	packPanelPortable(t, 8*blocks, in, panel, rows)
}
