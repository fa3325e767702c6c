package kernel

import (
	"runtime"
	"sort"

	"github.com/tandem-moe/tandem/kernel/detmath"
)

const (
	// innerBlock is how many inner indices a kernel multiplies at a time: a
	// panel's block (16 KiB of F32) stays in the first-level cache while all rows
	// of a chunk use it. Accumulators go to memory and back between blocks, as
	// F32, which rounds nothing.
	innerBlock = 128
	// chunkRows is how many rows share a block, and a tile's height.
	chunkRows = 96
)

// product is dst = src·wᵀ + bias for the rows of one or more groups, each with
// its own weight. It is done by all threads as units: one panel of one group
// times one chunk of its rows.
type product struct {
	isa      ISA
	dst, src matrix
	groups   []group
	packed   []float32
}

// group is the rows that one weight multiplies.
type group struct {
	w      *weight
	bias   []float32 // nil, or one for each output
	lo, hi int       // rows
	packed int       // where its rows lie in product.packed
	units  int       // the units of this group and of all groups before it
}

func (g *group) rows() int   { return g.hi - g.lo }
func (g *group) chunks() int { return (g.rows() + chunkRows - 1) / chunkRows }

// setBias gives the group a bias, unless b is nil.
func (g *group) setBias(op string, b Buffer) {
	if b == nil {
		return
	}
	g.bias = f32s(b)
	mustEqual(op, "elements of the bias", len(g.bias), g.w.out)
}

// Linear is dst = src·wᵀ, plus the bias where it is not nil. dst and src do not
// overlap.
func (c *CPU) Linear(dst, src Mat, w Weight, bias Buffer) {
	h := cpuWeight(w)
	mustEqual("linear", "rows of dst", dst.Rows, src.Rows)
	mustEqual("linear", "columns of src", src.Cols, h.in)
	mustEqual("linear", "columns of dst", dst.Cols, h.out)
	g := group{w: h, hi: src.Rows}
	g.setBias("linear", bias)
	c.multiply(product{isa: c.isa, dst: view(dst), src: view(src), groups: []group{g}})
	runtime.KeepAlive(w)
}

// multiply runs a product on the pool.
func (c *CPU) multiply(p product) {
	units, work, packed := p.plan()
	if units == 0 {
		return
	}
	p.pack(c, packed)
	const worthSharing = 256 << 10 // multiply-adds
	c.parallel(units, worthSharing*units/(work+1)+1, func(lo, hi int) { p.run(c, lo, hi) })
}

// plan places the packed rows. It returns the number of units, their multiply-adds and
// the elements of the packed rows. A group of fewer than four rows counts as four:
// reading a panel from memory takes as long as multiplying about four rows by it.
func (p *product) plan() (units, work, packed int) {
	for i := range p.groups {
		g := &p.groups[i]
		g.packed = packed
		if g.rows() > 1 {
			packed += g.rows() * wholeBlocks(g.w.in)
		}
		units += g.w.panels() * g.chunks()
		work += g.w.panels() * panelWidth * g.w.in * max(g.rows(), 4)
		g.units = units
	}
	return units, work, packed
}

// wholeBlocks rounds inner indices up to whole blocks.
func wholeBlocks(in int) int { return (in + innerBlock - 1) / innerBlock * innerBlock }

// pack copies the rows of groups of more than one row to [inner blocks][rows]
// [innerBlock]. A kernel then finds its rows at one small distance: rows a
// power of two apart fight for the same few places of the cache.
func (p *product) pack(c *CPU, n int) {
	if n == 0 {
		return
	}
	p.packed = c.scratch.grow(n)
	const worthSharing = 64 << 10 // elements
	c.parallel(p.src.rows, worthSharing/(p.src.cols+1)+1, func(lo, hi int) {
		for i := range p.groups {
			p.packGroup(&p.groups[i], max(lo, p.groups[i].lo), min(hi, p.groups[i].hi))
		}
	})
}

// packGroup packs rows lo to hi, all of one group.
func (p *product) packGroup(g *group, lo, hi int) {
	if g.rows() == 1 {
		return
	}
	for r := lo; r < hi; r++ {
		src := p.src.row(r)
		for k := 0; k < g.w.in; k += innerBlock {
			at := g.packed + k*g.rows() + (r-g.lo)*innerBlock
			copy(p.packed[at:at+innerBlock], src[k:])
		}
	}
}

// run does units lo to hi.
func (p *product) run(c *CPU, lo, hi int) {
	t := c.tiles.Get().(*tile)
	defer c.tiles.Put(t)
	i := sort.Search(len(p.groups), func(i int) bool { return p.groups[i].units > lo })
	for ; lo < hi; i++ {
		g := &p.groups[i]
		first := g.units - g.w.panels()*g.chunks()
		end := min(hi, g.units)
		if g.rows() == 1 {
			p.runRow(g, t, lo-first, end-first)
		} else {
			p.runGroup(g, t, lo-first, end-first)
		}
		lo = end
	}
}

// runGroup does units lo to hi of a group of several rows. The chunks of a panel
// follow each other, while the panel is in the cache.
func (p *product) runGroup(g *group, t *tile, lo, hi int) {
	for u := lo; u < hi; u++ {
		panel, chunk := u/g.chunks(), u%g.chunks()
		first := chunk * chunkRows
		rows := min(chunkRows, g.rows()-first)
		p.multiplyChunk(g, t, panel, first, rows)
		for r := range rows {
			p.store(g, g.lo+first+r, panel, t.row(r))
		}
	}
}

// multiplyChunk leaves rows first … of a group times a panel in the tile.
func (p *product) multiplyChunk(g *group, t *tile, panel, first, rows int) {
	clear(t[:rows*panelWidth])
	b := g.w.panel(panel)
	step := panelWidth * packedSize(g.w.dtype)
	for k := 0; k < g.w.in; k += innerBlock {
		n := min(innerBlock, g.w.in-k)
		a := p.packed[g.packed+k*g.rows()+first*innerBlock:]
		multiplyRows(p.isa, g.w.dtype, rows, n, a[:rows*innerBlock], b[k*step:(k+n)*step], t[:rows*panelWidth])
	}
}

// runRow does panels lo to hi of a group of one row, several at a time: one
// panel's chains alone would wait for each other's latency.
func (p *product) runRow(g *group, t *tile, lo, hi int) {
	a := p.src.row(g.lo)
	for lo < hi {
		n := 1
		if hi-lo >= panelsAtOnce(p.isa) {
			n = panelsAtOnce(p.isa)
		}
		clear(t[:n*panelWidth])
		size := g.w.panelSize()
		multiplyRow(p.isa, g.w.dtype, n, a, g.w.mem.bytes[lo*size:(lo+n)*size], t[:n*panelWidth])
		for i := range n {
			p.store(g, g.lo, lo+i, t.row(i))
		}
		lo += n
	}
}

// store writes a panel's sums, plus the bias, to a row of dst.
func (p *product) store(g *group, r, panel int, sums []float32) {
	first := panel * panelWidth
	end := min(first+panelWidth, g.w.out)
	dst := p.dst.row(r)[first:end]
	if g.bias == nil {
		copy(dst, sums)
		return
	}
	for i, b := range g.bias[first:end] {
		dst[i] = sums[i] + b
	}
}

// tile is the sums of a chunk of rows for one panel, or of one row for several.
type tile [chunkRows * panelWidth]float32

func (t *tile) row(r int) []float32 { return t[r*panelWidth : (r+1)*panelWidth] }

// multiplyRowsPortable adds k steps of rows' chains to acc: the slow obvious
// version that the others equal bit for bit. Row r of a starts at r·innerBlock.
func multiplyRowsPortable(t DType, rows, k int, a []float32, b []byte, acc []float32) {
	var wide [panelWidth]float32
	for i := range k {
		for c := range wide {
			wide[c] = loadElement(b, t, i*panelWidth+columnAt(t, c))
		}
		for r := range rows {
			fmaRow(acc[r*panelWidth:], a[r*innerBlock+i], &wide)
		}
	}
}

// multiplyRowPortable is the product of one row and whole panels.
func multiplyRowPortable(t DType, panels int, a []float32, b []byte, acc []float32) {
	size := len(b) / panels
	for p := range panels {
		multiplyRowsPortable(t, 1, len(a), a, b[p*size:(p+1)*size], acc[p*panelWidth:])
	}
}

// fmaRow is acc[c] += x·w[c], fused.
func fmaRow(acc []float32, x float32, w *[panelWidth]float32) {
	acc = acc[:panelWidth]
	for c, v := range w {
		acc[c] = detmath.FMA32(x, v, acc[c])
	}
}
