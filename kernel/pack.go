package kernel

import (
	"encoding/binary"
	"fmt"
	"math"
	"runtime"
	"unsafe"
)

// panelWidth is the output columns of a panel.
const panelWidth = 32

// weight is a matrix cut into panels of panelWidth output columns. A panel is
// [In][panelWidth], so that a kernel reads it from one end to the other and
// loads the same inner index of neighbouring outputs as one vector; the columns
// that the last panel lacks are zero. Elements keep their type.
//
// F32 and F16 columns lie in order. Of BF16, columns c and c+16 lie together as
// one 32-bit word, c in the lower half: a shift widens the first sixteen
// columns and a mask the others. The layout is the same for every instruction
// set, so that devices share weights.
type weight struct {
	out, in int
	dtype   DType
	mem     memory
}

func (w *weight) Out() int     { return w.out }
func (w *weight) In() int      { return w.in }
func (w *weight) DType() DType { return w.dtype }
func (w *weight) Size() int64  { return int64(len(w.mem.bytes)) }

// packedSize is the bytes of one element of a packed matrix, whose types have no blocks.
// Kernels ask for it for each panel: DType.Bytes, which divides, takes 3 % of a small
// product's time.
func packedSize(t DType) int {
	if t == F32 {
		return 4
	}
	return 2
}

// panels is the number of panels, the last of which may be partly empty.
func (w *weight) panels() int { return (w.out + panelWidth - 1) / panelWidth }

// panelSize is the bytes of a panel.
func (w *weight) panelSize() int { return w.in * panelWidth * packedSize(w.dtype) }

// panel is panel p's bytes.
func (w *weight) panel(p int) []byte {
	size := w.panelSize()
	return w.mem.bytes[p*size : (p+1)*size : (p+1)*size]
}

// cpuWeight returns the CPU's own weight.
func cpuWeight(w Weight) *weight {
	h, ok := w.(*weight)
	if !ok {
		panic(fmt.Sprintf("kernel: a %T is not a weight of the CPU device", w))
	}
	return h
}

// columnAt is where column c lies in a row of a panel.
func columnAt(t DType, c int) int {
	if t == BF16 {
		return c%16*2 + c/16
	}
	return c
}

// element is w[out, in], widened.
func (w *weight) element(out, in int) float32 {
	at := in*panelWidth + columnAt(w.dtype, out%panelWidth)
	return loadElement(w.panel(out/panelWidth), w.dtype, at)
}

// loadElement widens element i of little-endian bytes.
func loadElement(b []byte, t DType, i int) float32 {
	switch t {
	case F16:
		return widenF16(binary.LittleEndian.Uint16(b[2*i:]))
	case BF16:
		return widenBF16(binary.LittleEndian.Uint16(b[2*i:]))
	}
	return math.Float32frombits(binary.LittleEndian.Uint32(b[4*i:]))
}

// Pack concatenates matrices of equal In along Out, widened to F32 where their
// types differ, and packs them. The parts' bytes are not kept. Elements of 4 and 8
// bits are widened: to BF16 where that is exact, else to F32.
func (c *CPU) Pack(parts ...HostMatrix) (Weight, error) {
	w, err := packedShape(parts)
	if err != nil {
		return nil, fmt.Errorf("pack: %w", err)
	}
	if w.mem, err = c.memory.allocate(w.panels() * w.panelSize()); err != nil {
		return nil, fmt.Errorf("pack [%d, %d] of %v: %w", w.out, w.in, w.dtype, err)
	}
	if w.mem.mapped != nil {
		runtime.AddCleanup(w, memory.release, w.mem)
	}
	p := packer{w: w, rows: hostRows(parts), zero: make([]byte, w.dtype.Bytes(w.in)), isa: c.isa}
	const worthSharing = 128 << 10 // bytes
	c.parallel(w.panels(), worthSharing/(w.panelSize()+1)+1, p.pack)
	return w, nil
}

// packedShape checks the parts and returns the weight without its memory.
func packedShape(parts []HostMatrix) (*weight, error) {
	if len(parts) == 0 {
		return nil, fmt.Errorf("no matrix")
	}
	w := &weight{in: parts[0].In, dtype: parts[0].packedType()}
	for i, m := range parts {
		if err := m.check(); err != nil {
			return nil, fmt.Errorf("part %d: %w", i, err)
		}
		if m.In != w.in {
			return nil, fmt.Errorf("part %d is [%d, %d], part 0 has %d columns", i, m.Out, m.In, w.in)
		}
		if m.packedType() != w.dtype {
			w.dtype = F32
		}
		w.out += m.Out
	}
	return w, nil
}

// hostRows lists the outputs of all parts.
func hostRows(parts []HostMatrix) (rows []hostRow) {
	for i := range parts {
		for o := range parts[i].Out {
			rows = append(rows, parts[i].row(o))
		}
	}
	return rows
}

// packer fills a weight's panels.
type packer struct {
	w    *weight
	rows []hostRow
	zero []byte // a row for the columns that the last panel lacks
	isa  ISA
}

// pack fills panels lo to hi.
func (p *packer) pack(lo, hi int) {
	var sources [panelWidth][]byte
	for i := lo; i < hi; i++ {
		for c := range sources {
			sources[c] = p.source(i*panelWidth + c)
		}
		packPanel(p.isa, p.w.dtype, p.w.in, p.w.panel(i), &sources)
	}
}

// source is output o's elements in the weight's type.
func (p *packer) source(o int) []byte {
	if o >= len(p.rows) {
		return p.zero
	}
	r := p.rows[o]
	if r.dtype == p.w.dtype && r.scales == nil {
		return r.data
	}
	wide := make([]float32, p.w.in)
	r.widen(wide)
	if p.w.dtype == BF16 {
		return upperHalves(wide)
	}
	return floatBytes(wide)
}

func floatBytes(f []float32) []byte {
	return unsafe.Slice((*byte)(unsafe.Pointer(unsafe.SliceData(f))), 4*len(f))
}

// packPanelPortable transposes elements from … in-1 of panelWidth rows to a
// panel. This is the slow obvious version: any instruction set's moves the same
// bits.
func packPanelPortable(t DType, from, in int, panel []byte, rows *[panelWidth][]byte) {
	const block = 16 // inner indices at a time: a cache line of each row
	size := packedSize(t)
	for lo := from; lo < in; lo += block {
		hi := min(lo+block, in)
		for c, row := range rows {
			at := columnAt(t, c)
			for k := lo; k < hi; k++ {
				copyElement(panel[(k*panelWidth+at)*size:], row[k*size:], size)
			}
		}
	}
}

func copyElement(dst, src []byte, size int) {
	if size == 2 {
		binary.LittleEndian.PutUint16(dst, binary.LittleEndian.Uint16(src))
		return
	}
	binary.LittleEndian.PutUint32(dst, binary.LittleEndian.Uint32(src))
}
