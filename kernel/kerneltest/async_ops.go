package kerneltest

import (
	"fmt"
	"slices"

	"github.com/tandem-moe/tandem/kernel"
)

// wrap gives the host its copy of a buffer of the inner device.
func wrap(b kernel.Buffer) *buffer {
	return &buffer{Buffer: b, host: slices.Clone(b.Bytes())}
}

// own returns the device's own buffer.
func own(b kernel.Buffer) *buffer {
	w, ok := b.(*buffer)
	if !ok {
		panic(fmt.Sprintf("kerneltest: a %T is not memory of the asynchronous device", b))
	}
	return w
}

// unwrap is the inner device's buffer; nil stays nil.
func unwrap(b kernel.Buffer) kernel.Buffer {
	if b == nil {
		return nil
	}
	return own(b).Buffer
}

// inner is the same view of the inner device's buffer.
func inner(m kernel.Mat) kernel.Mat {
	m.Buf = unwrap(m.Buf)
	return m
}

// innerCoded is the same view of the inner device's buffer.
func innerCoded(m kernel.CodedMat) kernel.CodedMat {
	m.Buf = unwrap(m.Buf)
	return m
}

// innerKV is the same cache on the inner device.
func innerKV(c kernel.KV) kernel.KV {
	c.K, c.V = unwrap(c.K), unwrap(c.V)
	return c
}

// cloneSequences copies the sequences with their pages.
func cloneSequences(seqs []kernel.Sequence) []kernel.Sequence {
	seqs = slices.Clone(seqs)
	for i := range seqs {
		seqs[i].Pages = slices.Clone(seqs[i].Pages)
	}
	return seqs
}

// elements is a range of a buffer's elements.
func elements(b kernel.Buffer, lo, n int) region {
	size := b.DType().Size()
	return region{own(b), lo * size, (lo + n) * size}
}

// rowsOf is the elements of a view.
func rowsOf(m kernel.Mat) (rs []region) {
	for r := range m.Rows {
		rs = append(rs, elements(m.Buf, m.Off+r*m.Stride, m.Cols))
	}
	return rs
}

// pagesOf is the pages of a cache that sequences write to.
func pagesOf(c kernel.KV, seqs []kernel.Sequence) (rs []region) {
	n := c.PageTokens * c.KVHeads * c.HeadDim
	for _, s := range seqs {
		for p := s.Pos; p < s.Pos+s.Rows; p = (p/c.PageTokens + 1) * c.PageTokens {
			at := c.Off + int(s.Pages[p/c.PageTokens])*n
			rs = append(rs, elements(c.K, at, n), elements(c.V, at, n))
		}
	}
	return rs
}

// locked runs what the inner device does at once between two operations.
func locked[T any](a *async, f func() (T, error)) (T, error) {
	a.inner.Lock()
	defer a.inner.Unlock()
	return f()
}

func (a *async) Alloc(t kernel.DType, n int) (kernel.Buffer, error) {
	b, err := locked(a, func() (kernel.Buffer, error) { return a.dev.Alloc(t, n) })
	if err != nil {
		return nil, err
	}
	return wrap(b), nil
}

func (a *async) Adopt(t kernel.DType, mem []byte) (kernel.Buffer, error) {
	b, err := locked(a, func() (kernel.Buffer, error) { return a.dev.Adopt(t, mem) })
	if err != nil {
		return nil, err
	}
	return wrap(b), nil
}

func (a *async) Free(b kernel.Buffer) {
	w := own(b)
	a.enqueue("free", nil, func(dev kernel.Device) { dev.Free(w.Buffer) })
}

func (a *async) Load(dst kernel.Buffer, off int, src []byte) {
	src = slices.Clone(src)
	writes := []region{elements(dst, off, len(src)/dst.DType().Size())}
	a.enqueue("load", writes, func(dev kernel.Device) { dev.Load(unwrap(dst), off, src) })
}

func (a *async) Pack(parts ...kernel.HostMatrix) (kernel.Weight, error) {
	return locked(a, func() (kernel.Weight, error) { return a.dev.Pack(parts...) })
}

func (a *async) Vector(t kernel.DType, data []byte) (kernel.Buffer, error) {
	b, err := locked(a, func() (kernel.Buffer, error) { return a.dev.Vector(t, data) })
	if err != nil {
		return nil, err
	}
	return wrap(b), nil
}

func (a *async) NewRope(inv []float32, scale float32, positions int) (kernel.Rope, error) {
	return locked(a, func() (kernel.Rope, error) { return a.dev.NewRope(inv, scale, positions) })
}

func (a *async) Embed(dst kernel.Mat, table kernel.Weight, ids []int32) {
	ids = slices.Clone(ids)
	a.enqueue("embed", rowsOf(dst), func(dev kernel.Device) { dev.Embed(inner(dst), table, ids) })
}

func (a *async) Linear(dst, src kernel.Mat, w kernel.Weight, bias kernel.Buffer) {
	a.enqueue("linear", rowsOf(dst), func(dev kernel.Device) { dev.Linear(inner(dst), inner(src), w, unwrap(bias)) })
}

func (a *async) GroupedLinear(dst, src kernel.Mat, w []kernel.Weight, offsets []int32) {
	w, offsets = slices.Clone(w), slices.Clone(offsets)
	writes := rowsOf(dst.RowRange(int(offsets[0]), int(offsets[len(w)])))
	a.enqueue("grouped linear", writes, func(dev kernel.Device) {
		dev.GroupedLinear(inner(dst), inner(src), w, offsets)
	})
}

func (a *async) RMSNorm(dst, src kernel.Mat, w kernel.Buffer, groups int, eps float32) {
	a.enqueue("rms norm", rowsOf(dst), func(dev kernel.Device) {
		dev.RMSNorm(inner(dst), inner(src), unwrap(w), groups, eps)
	})
}

func (a *async) Clamp(x kernel.Mat, limit float32) {
	a.enqueue("clamp", rowsOf(x), func(dev kernel.Device) { dev.Clamp(inner(x), limit) })
}

func (a *async) RoPE(x kernel.Mat, headDim int, t kernel.Rope, pos []int32) {
	pos = slices.Clone(pos)
	a.enqueue("rope", rowsOf(x), func(dev kernel.Device) { dev.RoPE(inner(x), headDim, t, pos) })
}

func (a *async) StoreKV(c kernel.KV, k, v kernel.Mat, seqs []kernel.Sequence) {
	seqs = cloneSequences(seqs)
	a.enqueue("store kv", pagesOf(c, seqs), func(dev kernel.Device) {
		dev.StoreKV(innerKV(c), inner(k), inner(v), seqs)
	})
}

func (a *async) Attention(dst, q kernel.Mat, c kernel.KV, seqs []kernel.Sequence, p kernel.AttentionParams) {
	seqs = cloneSequences(seqs)
	a.enqueue("attention", rowsOf(dst), func(dev kernel.Device) {
		dev.Attention(inner(dst), inner(q), innerKV(c), seqs, p)
	})
}

func (a *async) SwiGLU(dst, gateUp kernel.Mat) {
	a.enqueue("swiglu", rowsOf(dst), func(dev kernel.Device) { dev.SwiGLU(inner(dst), inner(gateUp)) })
}

func (a *async) ScaleRows(x, scale kernel.Mat) {
	a.enqueue("scale rows", rowsOf(x), func(dev kernel.Device) { dev.ScaleRows(inner(x), inner(scale)) })
}

func (a *async) Add(dst, x, y kernel.Mat) {
	a.enqueue("add", rowsOf(dst), func(dev kernel.Device) { dev.Add(inner(dst), inner(x), inner(y)) })
}

func (a *async) TopK(idx, weight kernel.Buffer, logits kernel.Mat, p kernel.RouterParams) {
	n := logits.Rows * p.TopK
	writes := []region{elements(idx, 0, n), elements(weight, 0, n)}
	a.enqueue("top-k", writes, func(dev kernel.Device) { dev.TopK(unwrap(idx), unwrap(weight), inner(logits), p) })
}

func (a *async) CopyRows(dst kernel.Mat, dstRows []int32, src kernel.Mat, srcRows []int32) {
	dstRows, srcRows = slices.Clone(dstRows), slices.Clone(srcRows)
	a.enqueue("copy rows", copiedRows(dst, dstRows, srcRows), func(dev kernel.Device) {
		dev.CopyRows(inner(dst), dstRows, inner(src), srcRows)
	})
}

// copiedRows is the rows of dst that a copy writes.
func copiedRows(dst kernel.Mat, dstRows, srcRows []int32) (rs []region) {
	if dstRows == nil {
		if srcRows != nil {
			dst.Rows = len(srcRows)
		}
		return rowsOf(dst)
	}
	for _, r := range dstRows {
		rs = append(rs, rowsOf(dst.RowRange(int(r), int(r)+1))...)
	}
	return rs
}

func (a *async) EncodeRows(dst kernel.CodedMat, src kernel.Mat, srcRows []int32) {
	srcRows = slices.Clone(srcRows)
	size := dst.Format.Bytes(dst.Cols)
	var writes []region
	if dst.Rows > 0 {
		writes = []region{{own(dst.Buf), dst.Off, dst.Off + dst.Rows*size}}
	}
	a.enqueue("encode rows", writes, func(dev kernel.Device) {
		dev.EncodeRows(innerCoded(dst), inner(src), srcRows)
	})
}

func (a *async) DecodeRows(dst kernel.Mat, dstRows []int32, src kernel.CodedMat, srcRows []int32) {
	dstRows, srcRows = slices.Clone(dstRows), slices.Clone(srcRows)
	a.enqueue("decode rows", copiedRows(dst, dstRows, srcRows), func(dev kernel.Device) {
		dev.DecodeRows(inner(dst), dstRows, innerCoded(src), srcRows)
	})
}

func (a *async) Combine(dst, residual, parts kernel.Mat, rows, offsets []int32) {
	rows, offsets = slices.Clone(rows), slices.Clone(offsets)
	a.enqueue("combine", rowsOf(dst), func(dev kernel.Device) {
		dev.Combine(inner(dst), inner(residual), inner(parts), rows, offsets)
	})
}

func (a *async) LogSumExp(dst, logits kernel.Mat) {
	writes := rowsOf(dst.ColRange(0, min(1, dst.Cols)))
	a.enqueue("log sum exp", writes, func(dev kernel.Device) { dev.LogSumExp(inner(dst), inner(logits)) })
}
