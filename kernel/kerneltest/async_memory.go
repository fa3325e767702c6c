package kerneltest

import (
	"fmt"
	"slices"

	"github.com/tandem-moe/tandem/kernel"
)

// locked runs f between two operations, for calls that the inner device does at once.
func locked[T any](a *async, f func() (T, error)) (T, error) {
	a.inner.Lock()
	defer a.inner.Unlock()
	return f()
}

// Alloc allocates on the inner device, and the host's copy where it has one.
func (a *async) Alloc(kind kernel.MemoryKind, t kernel.DType, n int) (kernel.Buffer, error) {
	b, err := locked(a, func() (kernel.Buffer, error) { return a.dev.Alloc(kind, t, n) })
	if err != nil {
		return nil, err
	}
	return a.wrap(b, kind)
}

// wrap gives the host its copy of a buffer of the inner device, if the host may see
// memory of its kind.
func (a *async) wrap(b kernel.Buffer, kind kernel.MemoryKind) (kernel.Buffer, error) {
	w := &buffer{Buffer: b, owner: a, visible: kind == kernel.HostVisible}
	if a.discrete && !w.visible {
		return w, nil
	}
	host, err := locked(a, func() (kernel.Buffer, error) { return a.dev.Alloc(kind, b.DType(), b.Len()) })
	if err != nil {
		a.free(w)
		return nil, err
	}
	copy(host.Bytes(), b.Bytes())
	w.host, w.hostMem = host.Bytes(), host
	return w, nil
}

// Adopt takes the host's memory for the host's copy.
func (a *async) Adopt(t kernel.DType, mem []byte) (kernel.Buffer, error) {
	if _, err := locked(a, func() (kernel.Buffer, error) { return a.dev.Adopt(t, mem) }); err != nil {
		return nil, err
	}
	n, _ := t.Elements(len(mem))
	b, err := locked(a, func() (kernel.Buffer, error) { return a.dev.Alloc(kernel.HostVisible, t, n) })
	if err != nil {
		return nil, err
	}
	return &buffer{Buffer: b, owner: a, host: mem, visible: true}, nil
}

// Free frees the buffer after the operations enqueued so far.
func (a *async) Free(b kernel.Buffer) {
	w := a.own(b)
	a.enqueue("free", nil, nil, func(kernel.Device) { a.freeInner(w) })
}

// free frees a buffer that nothing uses.
func (a *async) free(w *buffer) {
	a.inner.Lock()
	defer a.inner.Unlock()
	a.freeInner(w)
}

func (a *async) freeInner(w *buffer) {
	a.dev.Free(w.Buffer)
	if w.hostMem != nil {
		a.dev.Free(w.hostMem)
	}
}

// Vector loads on the inner device.
func (a *async) Vector(t kernel.DType, data []byte) (kernel.Buffer, error) {
	b, err := locked(a, func() (kernel.Buffer, error) { return a.dev.Vector(t, data) })
	if err != nil {
		return nil, err
	}
	return a.wrap(b, kernel.DeviceMemory)
}

// Load copies src now, and enqueues the copy to the device.
func (a *async) Load(dst kernel.Buffer, off int, src []byte) {
	src = slices.Clone(src)
	n, _ := dst.DType().Elements(len(src))
	a.enqueue("load", nil, a.elements(dst, off, n), func(dev kernel.Device) { dev.Load(a.unwrap(dst), off, src) })
}

// Read shows the host dst's values once it has waited. Operations that read dst as
// host-visible memory must not be enqueued before.
func (a *async) Read(dst []byte, src kernel.Buffer, off int) {
	values := make([]byte, len(dst))
	n, _ := src.DType().Elements(len(dst))
	writes := []target{{host: dst, value: func() []byte { return values }}}
	a.enqueue("read", a.seen(src, off, n), writes, func(dev kernel.Device) { dev.Read(values, a.unwrap(src), off) })
}

// own returns the device's own buffer.
func (a *async) own(b kernel.Buffer) *buffer {
	w, ok := b.(*buffer)
	if !ok || w.owner != a {
		panic(fmt.Sprintf("kerneltest: a %T is not memory of this asynchronous device", b))
	}
	return w
}

// unwrap is a buffer as the inner device takes it: the device's own as the inner one's,
// host-visible memory of another device as it is, and device memory of another
// asynchronous device, which are weights, as the inner one's. nil stays nil.
func (a *async) unwrap(b kernel.Buffer) kernel.Buffer {
	w, ok := b.(*buffer)
	if !ok || w.visible && w.owner != a {
		return b
	}
	return w.Buffer
}

// view is the same view of the inner device's buffer.
func (a *async) view(m kernel.Mat) kernel.Mat {
	m.Buf = a.unwrap(m.Buf)
	return m
}

// viewCoded is the same view of the inner device's buffer.
func (a *async) viewCoded(m kernel.CodedMat) kernel.CodedMat {
	m.Buf = a.unwrap(m.Buf)
	return m
}

// viewKV is the same cache on the inner device.
func (a *async) viewKV(c kernel.KV) kernel.KV {
	c.K, c.V = a.unwrap(c.K), a.unwrap(c.V)
	return c
}

// regionOf is a range of a buffer's elements.
func regionOf(b *buffer, lo, n int) region {
	return region{b, b.DType().Bytes(lo), b.DType().Bytes(lo + n)}
}

// written is the target of an operation that writes a region, if the host may see it.
func (r region) written() []target {
	if r.buf.host == nil || r.lo == r.hi {
		return nil
	}
	return []target{{region: r, host: r.hostBytes(), value: func() []byte { return r.buf.Buffer.Bytes()[r.lo:r.hi] }}}
}

// elements is the target of an operation that writes elements of a buffer.
func (a *async) elements(b kernel.Buffer, lo, n int) []target {
	return regionOf(a.own(b), lo, n).written()
}

// seen is the region of elements that an operation reads, where the host may have
// written to them.
func (a *async) seen(b kernel.Buffer, lo, n int) []region {
	w, ok := b.(*buffer)
	if !ok || w.owner != a || !w.visible || n == 0 {
		return nil
	}
	return []region{regionOf(w, lo, n)}
}

// runs are the runs of elements of a view: first, length.
func runs(m kernel.Mat) (list [][2]int) {
	if m.Stride == m.Cols && m.Rows > 0 {
		return [][2]int{{m.Off, m.Rows * m.Cols}}
	}
	for r := range m.Rows {
		list = append(list, [2]int{m.Off + r*m.Stride, m.Cols})
	}
	return list
}

// rows is the target of an operation that writes a view.
func (a *async) rows(m kernel.Mat) (ts []target) {
	for _, run := range runs(m) {
		ts = append(ts, a.elements(m.Buf, run[0], run[1])...)
	}
	return ts
}

// seenRows is the regions of views that an operation reads.
func (a *async) seenRows(views ...kernel.Mat) (rs []region) {
	for _, m := range views {
		if w, ok := m.Buf.(*buffer); !ok || !w.visible {
			continue
		}
		for _, run := range runs(m) {
			rs = append(rs, a.seen(m.Buf, run[0], run[1])...)
		}
	}
	return rs
}

// codedRegion is the bytes of rows in a format.
func codedRegion(b *buffer, m kernel.CodedMat) region {
	return region{b, m.Off, m.Off + m.Rows*m.Format.Bytes(m.Cols)}
}

// seenCoded is the region of coded rows that an operation reads.
func (a *async) seenCoded(m kernel.CodedMat) []region {
	w, ok := m.Buf.(*buffer)
	if !ok || w.owner != a || !w.visible || m.Rows == 0 {
		return nil
	}
	return []region{codedRegion(w, m)}
}

// pages are the targets of sequences that are written to a cache.
func (a *async) pages(c kernel.KV, seqs []kernel.Sequence) (ts []target) {
	k, v := c.PageTokens*c.Heads*c.KeyDim, c.PageTokens*c.Heads*c.ValueDim
	for _, s := range seqs {
		for p := s.Pos; p < s.Pos+s.Rows; p = (p/c.PageTokens + 1) * c.PageTokens {
			page := int(s.Pages[p/c.PageTokens])
			ts = append(ts, a.elements(c.K, c.KeyOff+page*k, k)...)
			ts = append(ts, a.elements(c.V, c.ValueOff+page*v, v)...)
		}
	}
	return ts
}

// cloneSequences copies the sequences with their pages.
func cloneSequences(seqs []kernel.Sequence) []kernel.Sequence {
	seqs = slices.Clone(seqs)
	for i := range seqs {
		seqs[i].Pages = slices.Clone(seqs[i].Pages)
	}
	return seqs
}
