package main

import (
	"fmt"

	. "github.com/mmcloughlin/avo/build"
	. "github.com/mmcloughlin/avo/operand"
	"github.com/mmcloughlin/avo/reg"
)

// These agree with package kernel.
const (
	panelWidth = 32  // columns of a panel
	innerBlock = 128 // the distance of rows in a packed block, in elements
)

// element is a type of weights.
type element struct {
	name string
	size int
}

var elements = []element{{"F32", 4}, {"F16", 2}, {"BF16", 2}}

// prefetchAhead is how far before its use row… asks for a panel's line, in bytes.
// The processor's own prefetchers stop at each page.
const prefetchAhead = 2048

// gemm writes, for each instruction set and type of weight,
//
//	rows…: acc[r] += a[r]·b for 1 to height rows of one panel
//	row…:  acc[p] += a·b[p] for one row and several panels
func gemm() {
	mask := highHalves()
	for _, v := range []vectors{avx2(mask), avx512(mask)} {
		for _, t := range elements {
			rowsKernel(v, t)
			rowKernel(v, t)
		}
	}
}

// vectors is how an instruction set multiplies a panel.
type vectors struct {
	name   string
	bytes  int // of a register
	height int // rows at once
	panels int // panels at once of a single row
	byRows bool
	new    func() reg.VecVirtual
	// load widens vector i of a panel's row at mem into b.
	load func(t element, mem func(offset int) Mem, i int, b reg.VecVirtual)
}

// perPanel is the vectors in a panel's row.
func (v vectors) perPanel() int { return panelWidth * 4 / v.bytes }

// order lists a row's vectors in the order of their loading: where a BF16 load
// serves two, they follow each other.
func (v vectors) order(t element) (is []int) {
	half := v.perPanel() / 2
	for i := range v.perPanel() {
		if t.name == "BF16" {
			i = i/2 + i%2*half
		}
		is = append(is, i)
	}
	return is
}

// highHalves is the mask of a BF16 pair's upper element.
func highHalves() Mem {
	m := GLOBL("highHalves", RODATA|NOPTR)
	for i := range 16 {
		DATA(4*i, U32(0xffff0000))
	}
	return m
}

func avx2(mask Mem) vectors {
	load := func(t element, mem func(int) Mem, i int, b reg.VecVirtual) {
		switch {
		case t.name == "F32":
			VMOVUPS(mem(32*i), b)
		case t.name == "F16":
			VCVTPH2PS(mem(16*i), b)
		case i < 2: // the lower elements of pairs 8i … 8i+7
			VMOVUPS(mem(32*i), b)
			VPSLLD(U8(16), b, b)
		default:
			VMOVUPS(mask, b)
			VPAND(mem(32*(i-2)), b, b)
		}
	}
	return vectors{name: "AVX2", bytes: 32, height: 3, panels: 2, new: YMM, load: load}
}

func avx512(mask Mem) vectors {
	load := func(t element, mem func(int) Mem, i int, b reg.VecVirtual) {
		switch {
		case t.name == "F32":
			VMOVUPS(mem(64*i), b)
		case t.name == "F16":
			VCVTPH2PS(mem(32*i), b)
		case i == 0:
			VPSLLD(U8(16), mem(0), b)
		default:
			VMOVUPS(mask, b)
			VPANDD(mem(0), b, b)
		}
	}
	return vectors{name: "AVX512", bytes: 64, height: 12, panels: 4, byRows: true, new: ZMM, load: load}
}

// rowsKernel is rows…: it jumps to the loop that is made for its number of rows.
func rowsKernel(v vectors, t element) {
	TEXT("rows"+v.name+t.name, NOSPLIT, "func(rows, k int, a *float32, b *byte, acc *float32, next uintptr, step int)")
	Pragma("noescape")
	Doc(fmt.Sprintf("rows%s%s adds k steps of 1 to %d rows' chains to acc. With each step it asks for the memory at next, which advances by step bytes. k is not 0.", v.name, t.name, v.height))
	rows := Load(Param("rows"), GP64())
	k := Load(Param("k"), GP64())
	a := Mem{Base: Load(Param("a"), GP64())}
	b := Mem{Base: Load(Param("b"), GP64())}
	acc := Mem{Base: Load(Param("acc"), GP64())}
	next := Mem{Base: Load(Param("next"), GP64())}
	step := Load(Param("step"), GP64())
	for m := 1; m < v.height; m++ {
		CMPQ(rows, U8(m))
		JE(LabelRef(fmt.Sprintf("rows%d", m)))
	}
	for m := v.height; m > 0; m-- {
		Label(fmt.Sprintf("rows%d", m))
		rowsLoop(v, t, m, k, a, b, acc, next, step)
	}
}

// rowsLoop multiplies m rows by one panel.
func rowsLoop(v vectors, t element, m int, k reg.Register, a, b, acc, next Mem, step reg.Register) {
	n := v.perPanel()
	sums := loadSums(v, acc, m*n)
	loop := fmt.Sprintf("loop%d", m)
	Label(loop)
	for line := 0; line < panelWidth*t.size; line += 64 {
		PREFETCHT0(next.Offset(line))
	}
	if v.byRows {
		byRows(v, t, m, a, b, sums)
	} else {
		byVectors(v, t, m, a, b, sums)
	}
	ADDQ(step, next.Base)
	ADDQ(U8(4), a.Base)
	SUBQ(I32(-panelWidth*t.size), b.Base) // +128 does not fit a byte, -128 does
	DECQ(k)
	JNZ(LabelRef(loop))
	storeSums(v, acc, sums)
	VZEROUPPER()
	RET()
}

// byRows widens the panel's row once and holds it while rows' elements come and
// go: the way for many registers.
func byRows(v vectors, t element, m int, a, b Mem, sums []reg.VecVirtual) {
	ws := make([]reg.VecVirtual, v.perPanel())
	for _, i := range v.order(t) {
		ws[i] = v.new()
		v.load(t, b.Offset, i, ws[i])
	}
	for r := range m {
		x := v.new()
		VBROADCASTSS(a.Offset(4*innerBlock*r), x)
		for i, w := range ws {
			VFMADD231PS(w, x, sums[r*len(ws)+i])
		}
	}
}

// byVectors holds the rows' elements while the vectors of the panel's row come
// and go.
func byVectors(v vectors, t element, m int, a, b Mem, sums []reg.VecVirtual) {
	xs := make([]reg.VecVirtual, m)
	for r := range xs {
		xs[r] = v.new()
		VBROADCASTSS(a.Offset(4*innerBlock*r), xs[r])
	}
	for _, i := range v.order(t) {
		w := v.new()
		v.load(t, b.Offset, i, w)
		for r, x := range xs {
			VFMADD231PS(w, x, sums[r*v.perPanel()+i])
		}
	}
}

// rowKernel is row…: several panels, stride bytes apart.
func rowKernel(v vectors, t element) {
	TEXT("row"+v.name+t.name, NOSPLIT, "func(k int, a *float32, b *byte, stride int, acc *float32)")
	Pragma("noescape")
	Doc(fmt.Sprintf("row%s%s adds the product of one row and %d panels, stride bytes apart, to acc. k is not 0.", v.name, t.name, v.panels))
	k := Load(Param("k"), GP64())
	a := Mem{Base: Load(Param("a"), GP64())}
	b := Load(Param("b"), GP64())
	stride := Load(Param("stride"), GP64())
	acc := Mem{Base: Load(Param("acc"), GP64())}

	panels := make([]Mem, v.panels)
	for p := range panels {
		panels[p] = Mem{Base: GP64()}
		MOVQ(b, panels[p].Base)
		ADDQ(stride, b)
	}
	n := v.perPanel()
	sums := loadSums(v, acc, n*v.panels)
	x, w := v.new(), v.new()
	Label("loop")
	VBROADCASTSS(a, x)
	for p, panel := range panels {
		for line := 0; line < panelWidth*t.size; line += 64 {
			PREFETCHT0(panel.Offset(prefetchAhead + line))
		}
		for _, i := range v.order(t) {
			v.load(t, panel.Offset, i, w)
			VFMADD231PS(w, x, sums[p*n+i])
		}
		SUBQ(I32(-panelWidth*t.size), panel.Base)
	}
	ADDQ(U8(4), a.Base)
	DECQ(k)
	JNZ(LabelRef("loop"))
	storeSums(v, acc, sums)
	VZEROUPPER()
	RET()
}

// loadSums takes n vectors of sums from memory.
func loadSums(v vectors, acc Mem, n int) []reg.VecVirtual {
	sums := make([]reg.VecVirtual, n)
	for i := range sums {
		sums[i] = v.new()
		VMOVUPS(acc.Offset(v.bytes*i), sums[i])
	}
	return sums
}

func storeSums(v vectors, acc Mem, sums []reg.VecVirtual) {
	for i, s := range sums {
		VMOVUPS(s, acc.Offset(v.bytes*i))
	}
}
