package kerneltest

import (
	"slices"

	"github.com/tandem-moe/tandem/kernel"
)

func (a *async) Pack(parts ...kernel.HostMatrix) (kernel.Weight, error) {
	return locked(a, func() (kernel.Weight, error) { return a.dev.Pack(parts...) })
}

func (a *async) NewRope(inv []float32, scale float32, positions int) (kernel.Rope, error) {
	return locked(a, func() (kernel.Rope, error) { return a.dev.NewRope(inv, scale, positions) })
}

func (a *async) Embed(dst kernel.Mat, table kernel.Weight, ids []int32) {
	ids = slices.Clone(ids)
	a.enqueue("embed", nil, a.rows(dst), func(dev kernel.Device) { dev.Embed(a.view(dst), table, ids) })
}

func (a *async) Linear(dst, src kernel.Mat, w kernel.Weight, bias kernel.Buffer) {
	a.enqueue("linear", a.seenRows(src), a.rows(dst), func(dev kernel.Device) {
		dev.Linear(a.view(dst), a.view(src), w, a.unwrap(bias))
	})
}

func (a *async) GroupedLinear(dst, src kernel.Mat, w []kernel.Weight, bias []kernel.Buffer, offsets []int32) {
	w, offsets = slices.Clone(w), slices.Clone(offsets)
	biases := slices.Clone(bias)
	for i, b := range biases {
		biases[i] = a.unwrap(b)
	}
	writes := a.rows(dst.RowRange(int(offsets[0]), int(offsets[len(w)])))
	a.enqueue("grouped linear", a.seenRows(src), writes, func(dev kernel.Device) {
		dev.GroupedLinear(a.view(dst), a.view(src), w, biases, offsets)
	})
}

func (a *async) RMSNorm(dst, src kernel.Mat, w kernel.Buffer, groups int, eps float32) {
	a.enqueue("rms norm", a.seenRows(src), a.rows(dst), func(dev kernel.Device) {
		dev.RMSNorm(a.view(dst), a.view(src), a.unwrap(w), groups, eps)
	})
}

func (a *async) Clamp(x kernel.Mat, limit float32) {
	a.enqueue("clamp", a.seenRows(x), a.rows(x), func(dev kernel.Device) { dev.Clamp(a.view(x), limit) })
}

func (a *async) RoPE(x kernel.Mat, t kernel.Rope, p kernel.RopeParams, pos []int32) {
	pos = slices.Clone(pos)
	a.enqueue("rope", a.seenRows(x), a.rows(x), func(dev kernel.Device) { dev.RoPE(a.view(x), t, p, pos) })
}

func (a *async) StoreKV(c kernel.KV, k, v kernel.Mat, seqs []kernel.Sequence) {
	seqs = cloneSequences(seqs)
	a.enqueue("store kv", a.seenRows(k, v), a.pages(c, seqs), func(dev kernel.Device) {
		dev.StoreKV(a.viewKV(c), a.view(k), a.view(v), seqs)
	})
}

func (a *async) Attention(dst, q kernel.Mat, c kernel.KV, seqs []kernel.Sequence, p kernel.AttentionParams) {
	seqs = cloneSequences(seqs)
	p.Sinks = a.unwrap(p.Sinks)
	a.enqueue("attention", a.seenRows(q), a.rows(dst), func(dev kernel.Device) {
		dev.Attention(a.view(dst), a.view(q), a.viewKV(c), seqs, p)
	})
}

func (a *async) SwiGLU(dst, gateUp kernel.Mat, p kernel.SwiGLUParams) {
	a.enqueue("swiglu", a.seenRows(gateUp), a.rows(dst), func(dev kernel.Device) { dev.SwiGLU(a.view(dst), a.view(gateUp), p) })
}

func (a *async) ScaleRows(x, scale kernel.Mat) {
	a.enqueue("scale rows", a.seenRows(x, scale), a.rows(x), func(dev kernel.Device) { dev.ScaleRows(a.view(x), a.view(scale)) })
}

func (a *async) Add(dst, x, y kernel.Mat) {
	a.enqueue("add", a.seenRows(x, y), a.rows(dst), func(dev kernel.Device) { dev.Add(a.view(dst), a.view(x), a.view(y)) })
}

func (a *async) TopK(ids, weights kernel.Buffer, logits kernel.Mat, p kernel.RouterParams) {
	n := logits.Rows * p.TopK
	p.Bias = a.unwrap(p.Bias)
	writes := append(a.elements(ids, 0, n), a.elements(weights, 0, n)...)
	a.enqueue("top-k", a.seenRows(logits), writes, func(dev kernel.Device) {
		dev.TopK(a.unwrap(ids), a.unwrap(weights), a.view(logits), p)
	})
}

func (a *async) CopyRows(dst kernel.Mat, dstRows []int32, src kernel.Mat, srcRows []int32) {
	dstRows, srcRows = slices.Clone(dstRows), slices.Clone(srcRows)
	a.enqueue("copy rows", a.seenRows(src), a.copiedRows(dst, dstRows, srcRows), func(dev kernel.Device) {
		dev.CopyRows(a.view(dst), dstRows, a.view(src), srcRows)
	})
}

// copiedRows is the rows of dst that a copy writes.
func (a *async) copiedRows(dst kernel.Mat, dstRows, srcRows []int32) (ts []target) {
	if dstRows == nil {
		if srcRows != nil {
			dst.Rows = len(srcRows)
		}
		return a.rows(dst)
	}
	for _, r := range dstRows {
		ts = append(ts, a.rows(dst.RowRange(int(r), int(r)+1))...)
	}
	return ts
}

func (a *async) EncodeRows(dst kernel.CodedMat, src kernel.Mat, srcRows []int32) {
	srcRows = slices.Clone(srcRows)
	var writes []target
	if dst.Rows > 0 {
		writes = codedRegion(a.own(dst.Buf), dst).written()
	}
	a.enqueue("encode rows", a.seenRows(src), writes, func(dev kernel.Device) {
		dev.EncodeRows(a.viewCoded(dst), a.view(src), srcRows)
	})
}

func (a *async) DecodeRows(dst kernel.Mat, dstRows []int32, src kernel.CodedMat, srcRows []int32) {
	dstRows, srcRows = slices.Clone(dstRows), slices.Clone(srcRows)
	a.enqueue("decode rows", a.seenCoded(src), a.copiedRows(dst, dstRows, srcRows), func(dev kernel.Device) {
		dev.DecodeRows(a.view(dst), dstRows, a.viewCoded(src), srcRows)
	})
}

func (a *async) Combine(dst, residual, parts kernel.Mat, rows, offsets []int32) {
	rows, offsets = slices.Clone(rows), slices.Clone(offsets)
	a.enqueue("combine", a.seenRows(residual, parts), a.rows(dst), func(dev kernel.Device) {
		dev.Combine(a.view(dst), a.view(residual), a.view(parts), rows, offsets)
	})
}

func (a *async) LogSumExp(dst, logits kernel.Mat) {
	writes := a.rows(dst.ColRange(0, min(1, dst.Cols)))
	a.enqueue("log sum exp", a.seenRows(logits), writes, func(dev kernel.Device) { dev.LogSumExp(a.view(dst), a.view(logits)) })
}
