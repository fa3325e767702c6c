package kernel

import (
	"fmt"
	"runtime"
)

// worthSharingRows is the elements from which an operation that does little
// with each is shared between threads.
const worthSharingRows = 16 << 10

// eachRow calls fn for every row, on all threads where there are enough
// elements in them.
func (c *CPU) eachRow(rows, cols int, fn func(r int)) {
	c.parallel(rows, worthSharingRows/(cols+1)+1, func(lo, hi int) {
		for r := lo; r < hi; r++ {
			fn(r)
		}
	})
}

// Embed writes row ids[r] of the table to row r of dst.
func (c *CPU) Embed(dst Mat, table Weight, ids []int32) {
	w, d := cpuWeight(table), view(dst)
	mustEqual("embed", "rows of dst", d.rows, len(ids))
	mustEqual("embed", "columns of dst", d.cols, w.in)
	for _, id := range ids {
		if id < 0 || int(id) >= w.out {
			panic(fmt.Sprintf("kernel: embed: id %d of a table of %d", id, w.out))
		}
	}
	// A row of the table is a column of a panel: each element costs a cache line.
	c.eachRow(d.rows, 16*d.cols, func(r int) { w.copyOutput(d.row(r), int(ids[r])) })
	runtime.KeepAlive(table)
}

// copyOutput writes output o's elements, widened, to dst.
func (w *weight) copyOutput(dst []float32, o int) {
	panel, at := w.panel(o/panelWidth), columnAt(w.dtype, o%panelWidth)
	for k := range dst {
		dst[k] = loadElement(panel, w.dtype, k*panelWidth+at)
	}
}

// CopyRows is dst[dstRows[i]] = src[srcRows[i]]; nil rows mean 0, 1, 2, ….
// Where both are nil, all rows of dst are written.
func (c *CPU) CopyRows(dst Mat, dstRows []int32, src Mat, srcRows []int32) {
	mustEqual("copy rows", "columns of src", src.Cols, dst.Cols)
	d, s := view(dst), view(src)
	n := countRows("copy rows", d.rows, dstRows, s.rows, srcRows)
	c.eachRow(n, d.cols, func(i int) {
		copy(d.row(rowAt(dstRows, i)), s.row(rowAt(srcRows, i)))
	})
}

// countRows is how many rows of so many a copy moves.
func countRows(op string, dst int, dstRows []int32, src int, srcRows []int32) int {
	switch {
	case dstRows == nil && srcRows == nil:
		mustEqual(op, "rows of src", src, dst)
		return dst
	case dstRows == nil:
		return len(srcRows)
	case srcRows != nil:
		mustEqual(op, "source rows", len(srcRows), len(dstRows))
	}
	return len(dstRows)
}

func rowAt(rows []int32, i int) int {
	if rows == nil {
		return i
	}
	return int(rows[i])
}

// Combine is dst[r] = (residual[r] + parts[rows[i]]) + parts[rows[i+1]] + …, for
// i from offsets[r] to offsets[r+1]. Without a residual the sum starts with its
// first part, and is 0 where there is none. dst may be residual.
func (c *CPU) Combine(dst, residual, parts Mat, rows, offsets []int32) {
	mustEqual("combine", "columns of parts", parts.Cols, dst.Cols)
	mustEqual("combine", "offsets", len(offsets), dst.Rows+1)
	mustEqual("combine", "rows to add", int(offsets[dst.Rows]), len(rows))
	d, p := view(dst), view(parts)
	start := func(int) []float32 { return nil }
	if residual.Buf != nil {
		mustEqual("combine", "rows of residual", residual.Rows, dst.Rows)
		mustEqual("combine", "columns of residual", residual.Cols, dst.Cols)
		start = view(residual).row
	}
	perRow := len(rows)/max(1, d.rows) + 1
	c.eachRow(d.rows, d.cols*perRow, func(r int) {
		combineRow(c.isa, d.row(r), start(r), p, rows[offsets[r]:offsets[r+1]])
	})
}

// combineRow adds parts to a first row, which may be to, or nil for none.
func combineRow(isa ISA, to, first []float32, parts matrix, rows []int32) {
	if first == nil && len(rows) > 0 {
		first, rows = parts.row(int(rows[0])), rows[1:]
	}
	switch {
	case first == nil:
		clear(to)
	case len(rows) == 0:
		copy(to, first)
	}
	for _, i := range rows {
		addRow(isa, to, first, parts.row(int(i)))
		first = to
	}
}

// Add is dst = a + b; dst may be either.
func (c *CPU) Add(dst, a, b Mat) {
	mustEqual("add", "rows of a", a.Rows, dst.Rows)
	mustEqual("add", "rows of b", b.Rows, dst.Rows)
	mustEqual("add", "columns of a", a.Cols, dst.Cols)
	mustEqual("add", "columns of b", b.Cols, dst.Cols)
	d, x, y := view(dst), view(a), view(b)
	c.eachRow(d.rows, d.cols, func(r int) { addRow(c.isa, d.row(r), x.row(r), y.row(r)) })
}

// ScaleRows multiplies row r of x by element r of scale, a view of one column.
func (c *CPU) ScaleRows(x, scale Mat) {
	mustEqual("scale rows", "rows of scale", scale.Rows, x.Rows)
	mustEqual("scale rows", "columns of scale", scale.Cols, 1)
	m, s := view(x), view(scale)
	c.eachRow(m.rows, m.cols, func(r int) { scaleRow(c.isa, m.row(r), s.row(r)[0]) })
}

// Clamp limits x to [-limit, limit]; a NaN stays.
func (c *CPU) Clamp(x Mat, limit float32) {
	m := view(x)
	c.eachRow(m.rows, m.cols, func(r int) { clampRow(m.row(r), limit) })
}

func addRowPortable(dst, a, b []float32) {
	a, b = a[:len(dst)], b[:len(dst)]
	for i := range dst {
		dst[i] = a[i] + b[i]
	}
}

func scaleRowPortable(x []float32, s float32) {
	for i := range x {
		x[i] = float32(x[i] * s)
	}
}

func clampRow(x []float32, limit float32) {
	for i, v := range x {
		switch {
		case v > limit:
			x[i] = limit
		case v < -limit:
			x[i] = -limit
		}
	}
}
