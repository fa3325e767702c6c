package kerneltest

import (
	"github.com/stretchr/testify/require"

	"github.com/tandem-moe/tandem/kernel"
)

// primitive is one operation with random operands, and its result.
type primitive struct {
	name  string
	times int
	run   func(b *trial) []float32
}

var primitives = []primitive{
	{"Load and Read", 10, func(b *trial) []float32 {
		n := 1 + b.rand.IntN(90)
		x := b.buffer(kernel.F32, n)
		at := b.rand.IntN(n)
		b.dev.Load(x, at, littleEndian(b.floats(n-at)))
		part := make([]byte, 4*(n-at))
		b.dev.Read(part, x, at)
		b.wait()
		y := b.buffer(kernel.F32, n)
		b.dev.Load(y, 0, part)
		return append(b.read(x), b.read(y)...)
	}},
	{"Adopt", 5, func(b *trial) []float32 {
		rows, cols := 1+b.rand.IntN(5), 1+b.rand.IntN(90)
		whole := b.alloc(kernel.HostVisible, kernel.F32, rows*cols)
		copy(whole.Bytes(), littleEndian(b.floats(rows*cols)))
		adopted, err := b.dev.Adopt(kernel.F32, whole.Bytes())
		require.NoError(b.t, err)
		dst := b.mat(rows, cols)
		b.dev.CopyRows(dst, nil, kernel.MatOf(adopted, rows, cols), nil)
		b.dev.Free(adopted)
		return b.read(dst.Buf)
	}},
	{"WaitFor", 5, func(b *trial) []float32 {
		x := b.mat(1, 1+b.rand.IntN(90))
		b.dev.WaitFor(b.dev.Record())
		b.dev.Add(x, x, x)
		return b.read(x.Buf)
	}},
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
		offsets, weights, biases := []int32{0}, []kernel.Weight(nil), []kernel.Buffer(nil)
		for range b.rand.IntN(6) {
			weights, biases = append(weights, b.weight(out, in)), append(biases, b.vector(out))
			if b.rand.IntN(2) == 0 {
				biases[len(biases)-1] = nil
			}
			offsets = append(offsets, offsets[len(offsets)-1]+int32(b.rand.IntN(4)*b.rand.IntN(4)))
		}
		rows := int(offsets[len(weights)])
		dst := b.mat(rows, out)
		if b.rand.IntN(2) == 0 {
			biases = nil
		}
		b.dev.GroupedLinear(dst, b.mat(rows, in), weights, biases, offsets)
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
		p := kernel.RopeParams{First: b.rand.IntN(20), Interleaved: b.rand.IntN(2) == 0}
		p.HeadDim = p.First + 2*half + b.rand.IntN(20)
		x := b.mat(rows, p.HeadDim*heads)
		b.dev.RoPE(x, t, p, b.indices(rows, positions))
		return b.read(x.Buf)
	}},
	{"Attention", 6, attention},
	{"SwiGLU", 10, func(b *trial) []float32 {
		rows, cols := b.rand.IntN(5), 1+b.rand.IntN(90)
		dst := b.mat(rows, cols)
		p := kernel.SwiGLUParams{}
		if b.rand.IntN(2) == 0 {
			p = kernel.SwiGLUParams{Limit: float32(b.rand.IntN(2)), Alpha: 1.702, Offset: 1}
		}
		b.dev.SwiGLU(dst, b.mat(rows, 2*cols), p)
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
	{"TopK", 40, func(b *trial) []float32 {
		size, rows := 1+b.rand.IntN(20), b.rand.IntN(5)
		cols := size * (1 + b.rand.IntN(6))
		p := kernel.RouterParams{Scores: kernel.Scores(b.rand.IntN(2)), Normalize: b.rand.IntN(2) == 0, Scale: float32(b.rand.IntN(3))}
		allowed := cols
		if b.rand.IntN(2) == 0 {
			p.Groups, p.GroupBest = cols/size, 1+b.rand.IntN(min(size, 2))
			p.TopGroups = 1 + b.rand.IntN(p.Groups)
			allowed = p.TopGroups * size
		}
		if b.rand.IntN(2) == 0 {
			p.Bias = b.vector(cols)
		}
		p.TopK = 1 + b.rand.IntN(min(allowed, 9))
		ids, weights := b.buffer(kernel.I32, rows*p.TopK), b.buffer(kernel.F32, rows*p.TopK)
		b.dev.TopK(ids, weights, b.mat(rows, cols), p)
		return append(b.read(ids), b.read(weights)...)
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
	c := kernel.KV{PageTokens: kernel.KVBlock << b.rand.IntN(3), Heads: 1 + b.rand.IntN(2), KeyDim: 8 * (1 + b.rand.IntN(4)), ValueDim: 1 + b.rand.IntN(40)}
	p := kernel.AttentionParams{Heads: c.Heads * (1 + b.rand.IntN(3)), Scale: 0.3, Window: b.rand.IntN(2) * 40}
	if b.rand.IntN(2) == 0 {
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
