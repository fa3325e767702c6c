package kerneltest

import "github.com/tandem-moe/tandem/kernel"

// primitive is one operation with random operands, and its result.
type primitive struct {
	name  string
	times int
	run   func(b *trial) []float32
}

var primitives = []primitive{
	{"Embed", 10, func(b *trial) []float32 {
		out, in, rows := 1+b.rand.IntN(90), 1+b.rand.IntN(90), b.rand.IntN(5)
		dst := b.mat(rows, in)
		b.dev.Embed(dst, b.weight(out, in), b.indices(rows, out))
		return b.read(dst.Buf)
	}},
	{"Linear", 30, func(b *trial) []float32 {
		out, in, rows := 1+b.rand.IntN(150), 1+b.rand.IntN(300), b.rand.IntN(30)
		dst, bias := b.mat(rows, out), b.vector(out)
		if b.rand.IntN(2) == 0 {
			bias = nil
		}
		b.dev.Linear(dst, b.mat(rows, in), b.weight(out, in), bias)
		return b.read(dst.Buf)
	}},
	{"GroupedLinear", 20, func(b *trial) []float32 {
		out, in := 1+b.rand.IntN(80), 1+b.rand.IntN(160)
		offsets, weights := []int32{0}, []kernel.Weight(nil)
		for range b.rand.IntN(6) {
			weights = append(weights, b.weight(out, in))
			offsets = append(offsets, offsets[len(offsets)-1]+int32(b.rand.IntN(4)*b.rand.IntN(4)))
		}
		rows := int(offsets[len(weights)])
		dst := b.mat(rows, out)
		b.dev.GroupedLinear(dst, b.mat(rows, in), weights, offsets)
		return b.read(dst.Buf)
	}},
	{"RMSNorm", 20, func(b *trial) []float32 {
		groups, part, rows := 1+b.rand.IntN(4), 1+b.rand.IntN(70), b.rand.IntN(5)
		n := part
		if b.rand.IntN(2) == 0 {
			n *= groups
		}
		dst := b.mat(rows, part*groups)
		b.dev.RMSNorm(dst, b.mat(rows, part*groups), b.vector(n), groups, 1e-6)
		return b.read(dst.Buf)
	}},
	{"Clamp", 5, func(b *trial) []float32 {
		x := b.mat(b.rand.IntN(5), 1+b.rand.IntN(90))
		b.dev.Clamp(x, 0.5)
		return b.read(x.Buf)
	}},
	{"RoPE", 10, func(b *trial) []float32 {
		half, heads, rows := 1+b.rand.IntN(40), 1+b.rand.IntN(3), b.rand.IntN(5)
		const positions = 1000
		t, err := b.dev.NewRope(b.floats(half), 1.25, positions)
		if err != nil {
			b.t.Fatal(err)
		}
		x := b.mat(rows, 2*half*heads)
		b.dev.RoPE(x, 2*half, t, b.indices(rows, positions))
		return b.read(x.Buf)
	}},
	{"Attention", 6, attention},
	{"SwiGLU", 10, func(b *trial) []float32 {
		rows, cols := b.rand.IntN(5), 1+b.rand.IntN(90)
		dst := b.mat(rows, cols)
		b.dev.SwiGLU(dst, b.mat(rows, 2*cols))
		return b.read(dst.Buf)
	}},
	{"ScaleRows", 5, func(b *trial) []float32 {
		rows := b.rand.IntN(5)
		x := b.mat(rows, 1+b.rand.IntN(90))
		b.dev.ScaleRows(x, b.mat(rows, 1))
		return b.read(x.Buf)
	}},
	{"Add", 5, func(b *trial) []float32 {
		rows, cols := b.rand.IntN(5), 1+b.rand.IntN(90)
		dst := b.mat(rows, cols)
		b.dev.Add(dst, b.mat(rows, cols), dst)
		return b.read(dst.Buf)
	}},
	{"TopK", 20, func(b *trial) []float32 {
		rows, cols := b.rand.IntN(5), 1+b.rand.IntN(90)
		p := kernel.RouterParams{TopK: 1 + b.rand.IntN(min(cols, 9)), Normalize: b.rand.IntN(2) == 0}
		idx, weight := b.buffer(kernel.I32, rows*p.TopK), b.buffer(kernel.F32, rows*p.TopK)
		b.dev.TopK(idx, weight, b.mat(rows, cols), p)
		return append(b.read(idx), b.read(weight)...)
	}},
	{"CopyRows", 10, func(b *trial) []float32 {
		rows, cols := 1+b.rand.IntN(5), 1+b.rand.IntN(90)
		dst := b.mat(rows, cols)
		b.dev.CopyRows(dst, nil, b.mat(rows, cols), b.indices(rows, rows))
		return b.read(dst.Buf)
	}},
	{"EncodeRows", 20, func(b *trial) []float32 {
		rows, cols := 1+b.rand.IntN(5), 1+b.rand.IntN(90)
		m := b.coded(rows, cols)
		b.dev.EncodeRows(m, b.mat(rows, cols), b.indices(rows, rows))
		return b.readBytes(m.Buf)
	}},
	{"DecodeRows", 20, func(b *trial) []float32 {
		rows, cols := 1+b.rand.IntN(5), 1+b.rand.IntN(90)
		m, dst := b.coded(rows, cols), b.mat(rows, cols)
		b.dev.EncodeRows(m, b.mat(rows, cols), nil)
		b.dev.DecodeRows(dst, nil, m, b.indices(rows, rows))
		return b.read(dst.Buf)
	}},
	{"Combine", 10, func(b *trial) []float32 {
		rows, cols := 1+b.rand.IntN(5), 1+b.rand.IntN(90)
		offsets := []int32{0}
		for r := range rows {
			offsets = append(offsets, offsets[r]+int32(b.rand.IntN(4)))
		}
		dst := b.mat(rows, cols)
		residual := dst
		if b.rand.IntN(2) == 0 {
			residual = kernel.Mat{}
		}
		b.dev.Combine(dst, residual, b.mat(7, cols), b.indices(int(offsets[rows]), 7), offsets)
		return b.read(dst.Buf)
	}},
	{"LogSumExp", 10, func(b *trial) []float32 {
		rows := b.rand.IntN(5)
		dst := b.mat(rows, 1)
		b.dev.LogSumExp(dst, b.mat(rows, 1+b.rand.IntN(200)))
		return b.read(dst.Buf)
	}},
}

// attention fills the caches of a few sequences in chunks, and attends to them
// after each.
func attention(b *trial) (results []float32) {
	c := kernel.KV{PageTokens: kernel.KVBlock << b.rand.IntN(3), KVHeads: 1 + b.rand.IntN(2), HeadDim: 8 * (1 + b.rand.IntN(4))}
	p := kernel.AttentionParams{Heads: c.KVHeads * (1 + b.rand.IntN(3)), Scale: 0.3, Window: b.rand.IntN(2) * 40}
	seqs := make([]kernel.Sequence, 1+b.rand.IntN(3))
	const tokens = 300 // of each sequence: more than a span
	pages := (tokens + c.PageTokens - 1) / c.PageTokens
	n := pages * len(seqs) * c.PageTokens * c.KVHeads * c.HeadDim
	c.K, c.V = b.buffer(kernel.F32, n), b.buffer(kernel.F32, n)
	for i, page := range b.rand.Perm(pages * len(seqs)) {
		s := &seqs[i%len(seqs)]
		s.Pages = append(s.Pages, int32(page))
	}
	for range 3 {
		rows := 0
		for i := range seqs {
			s := &seqs[i]
			s.Pos += s.Rows
			s.Row, s.Rows = rows, 1+b.rand.IntN(tokens/3)
			rows += s.Rows
		}
		b.dev.StoreKV(c, b.mat(rows, c.KVHeads*c.HeadDim), b.mat(rows, c.KVHeads*c.HeadDim), seqs)
		dst := b.mat(rows, p.Heads*c.HeadDim)
		b.dev.Attention(dst, b.mat(rows, p.Heads*c.HeadDim), c, seqs, p)
		results = append(results, b.read(dst.Buf)...)
	}
	return append(append(results, b.read(c.K)...), b.read(c.V)...)
}
