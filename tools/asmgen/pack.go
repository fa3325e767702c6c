package main

import (
	"fmt"

	. "github.com/mmcloughlin/avo/build"
	. "github.com/mmcloughlin/avo/operand"
	"github.com/mmcloughlin/avo/reg"
)

// pack writes the transposition of 32 rows to a panel, eight inner indices at a
// time, for elements of 4 and of 2 bytes. It needs AVX2 only: memory bounds it.
func pack() {
	packKernel(4)
	packKernel(2)
}

// packKernel: rows come in the order of the panel's columns. Two neighbours of 2
// bytes make one column of 4, from where both sizes go the same way.
func packKernel(size int) {
	name := fmt.Sprintf("pack%dAVX2", size)
	TEXT(name, NOSPLIT, "func(blocks int, dst *byte, rows *[32]*byte)")
	Pragma("noescape")
	Doc(fmt.Sprintf("%s transposes 8·blocks elements of %d bytes of each row. blocks is not 0.", name, size))
	blocks := Load(Param("blocks"), GP64())
	dst := Mem{Base: Load(Param("dst"), GP64())}
	rows := Mem{Base: Load(Param("rows"), GP64())}
	at := GP64() // bytes into the rows
	XORQ(at, at)
	width := panelWidth * size

	Label("loop")
	for column := 0; column < width/4; column += 8 {
		var low, high [4]reg.VecVirtual // inner indices 0 to 3, and 4 to 7, of columns i and i+4
		for i := range 4 {
			if size == 4 {
				low[i] = twoRows(rows, column+i, column+i+4, at, 0)
				high[i] = twoRows(rows, column+i, column+i+4, at, 16)
				continue
			}
			a := twoRows(rows, 2*(column+i), 2*(column+i+4), at, 0)
			b := twoRows(rows, 2*(column+i)+1, 2*(column+i+4)+1, at, 0)
			low[i], high[i] = YMM(), YMM()
			VPUNPCKLWD(b, a, low[i])
			VPUNPCKHWD(b, a, high[i])
		}
		transpose(low, dst.Offset(4*column), width)
		transpose(high, dst.Offset(4*column+4*width), width)
	}
	ADDQ(I32(8*width), dst.Base)
	ADDQ(U8(8*size), at)
	DECQ(blocks)
	JNZ(LabelRef("loop"))
	VZEROUPPER()
	RET()
}

// twoRows holds 16 bytes of row i in its lower half, and of row j in its upper.
func twoRows(rows Mem, i, j int, at reg.Register, offset int) reg.VecVirtual {
	p, v := GP64(), YMM()
	MOVQ(rows.Offset(8*i), p)
	VBROADCASTF128(Mem{Base: p, Index: at, Scale: 1, Disp: offset}, v)
	MOVQ(rows.Offset(8*j), p)
	VINSERTI128(U8(1), Mem{Base: p, Index: at, Scale: 1, Disp: offset}, v, v)
	return v
}

// transpose stores a 4 × 4 transposition in each half: row k of the result at
// k·width.
func transpose(v [4]reg.VecVirtual, dst Mem, width int) {
	var u [4]reg.VecVirtual
	for i := range u {
		u[i] = YMM()
	}
	VUNPCKLPS(v[1], v[0], u[0])
	VUNPCKHPS(v[1], v[0], u[1])
	VUNPCKLPS(v[3], v[2], u[2])
	VUNPCKHPS(v[3], v[2], u[3])
	for k := range 4 {
		w := YMM()
		if k%2 == 0 {
			VUNPCKLPD(u[2+k/2], u[k/2], w)
		} else {
			VUNPCKHPD(u[2+k/2], u[k/2], w)
		}
		VMOVUPS(w, dst.Offset(k*width))
	}
}
