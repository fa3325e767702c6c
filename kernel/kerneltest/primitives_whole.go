package kerneltest

import "github.com/tandem-moe/tandem/kernel"

// wholePrimitives are the operations that an expert node does without.
var wholePrimitives = []primitive[kernel.Device]{
	{"Embed", 10, 0, func(b *trial[kernel.Device]) []float32 {
		out, in, rows := 1+b.rand.IntN(90), 1+b.rand.IntN(90), b.rand.IntN(5)
		dst := b.mat(rows, in)
		b.dev.Embed(dst, b.weight(out, in), b.indices(rows, out))
		return b.read(dst.Buf)
	}},
	{"RoPE", 10, 0, func(b *trial[kernel.Device]) []float32 {
		half, heads, rows := 1+b.rand.IntN(40), 1+b.rand.IntN(3), b.rand.IntN(5)
		const positions = 1000
		t, err := b.dev.NewRope(b.floats(half), 1.25, positions)
		if err != nil {
			b.t.Fatal(err)
		}
		p := kernel.RopeParams{Interleaved: b.sometimes(kernel.InterleavedRope), HeadDim: 2 * half}
		if b.sometimes(kernel.PartialRope) {
			p.First = b.rand.IntN(20)
			p.HeadDim += p.First + b.rand.IntN(20)
		}
		x := b.mat(rows, p.HeadDim*heads)
		b.dev.RoPE(x, t, p, b.indices(rows, positions))
		return b.read(x.Buf)
	}},
	{"Attention", 6, 0, attention},
	{"TopK", 40, 0, func(b *trial[kernel.Device]) []float32 {
		size, rows := 1+b.rand.IntN(20), b.rand.IntN(5)
		cols := size * (1 + b.rand.IntN(6))
		p := kernel.RouterParams{Normalize: b.rand.IntN(2) == 0, Scale: float32(b.rand.IntN(3))}
		if b.sometimes(kernel.SigmoidScores) {
			p.Scores = kernel.Sigmoid
		}
		allowed := cols
		if b.sometimes(kernel.RouterGroups) {
			p.Groups, p.GroupBest = cols/size, 1+b.rand.IntN(min(size, 2))
			p.TopGroups = 1 + b.rand.IntN(p.Groups)
			allowed = p.TopGroups * size
		}
		if b.sometimes(kernel.RouterBias) {
			p.Bias = b.vector(cols)
		}
		p.TopK = 1 + b.rand.IntN(min(allowed, 9))
		ids, weights := b.buffer(kernel.I32, rows*p.TopK), b.buffer(kernel.F32, rows*p.TopK)
		b.dev.TopK(ids, weights, b.mat(rows, cols), p)
		return append(b.read(ids), b.read(weights)...)
	}},
	{"LogSumExp", 10, 0, func(b *trial[kernel.Device]) []float32 {
		rows := b.rand.IntN(5)
		dst := b.mat(rows, 1)
		b.dev.LogSumExp(dst, b.mat(rows, 1+b.rand.IntN(200)))
		return b.read(dst.Buf)
	}},
}

// attention fills the caches of a few sequences in chunks, and attends to them
// after each.
func attention(b *trial[kernel.Device]) (results []float32) {
	c := kernel.KV{PageTokens: kernel.KVBlock << b.rand.IntN(3), Heads: 1 + b.rand.IntN(2), KeyDim: 8 * (1 + b.rand.IntN(4))}
	c.ValueDim = c.KeyDim
	if b.sometimes(kernel.ValueDims) {
		c.ValueDim = 1 + b.rand.IntN(40)
	}
	p := kernel.AttentionParams{Heads: c.Heads * (1 + b.rand.IntN(3)), Scale: 0.3}
	if b.sometimes(kernel.Windows) {
		p.Window = 40
	}
	if b.sometimes(kernel.Sinks) {
		p.Sinks = b.vector(p.Heads)
	}
	seqs := make([]kernel.Sequence, 1+b.rand.IntN(3))
	const tokens = 300 // of each sequence: more than a span
	pages := (tokens + c.PageTokens - 1) / c.PageTokens
	all := pages * len(seqs) * c.PageTokens * c.Heads
	c.KeyOff, c.ValueOff = b.rand.IntN(50), b.rand.IntN(50)
	c.K, c.V = b.buffer(kernel.F32, c.KeyOff+all*c.KeyDim), b.buffer(kernel.F32, c.ValueOff+all*c.ValueDim)
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
		b.dev.StoreKV(c, b.mat(rows, c.Heads*c.KeyDim), b.mat(rows, c.Heads*c.ValueDim), seqs)
		dst := b.mat(rows, p.Heads*c.ValueDim)
		b.dev.Attention(dst, b.mat(rows, p.Heads*c.KeyDim), c, seqs, p)
		results = append(results, b.read(dst.Buf)...)
	}
	return append(append(results, b.read(c.K)...), b.read(c.V)...)
}
