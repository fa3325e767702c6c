package kerneltest

import (
	"github.com/stretchr/testify/require"

	"github.com/tandem-moe/tandem/kernel"
)

// primitive is one operation with random operands, and its result. It is tried on devices
// of the interface D that have the capabilities that it needs in any form.
type primitive[D kernel.ExpertDevice] struct {
	name  string
	times int
	needs kernel.Capabilities
	run   func(b *trial[D]) []float32
}

// expertPrimitives are the operations of an expert node.
var expertPrimitives = []primitive[kernel.ExpertDevice]{
	{"Load and Read", 10, 0, func(b *trial[kernel.ExpertDevice]) []float32 {
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
	{"Adopt", 5, kernel.AdoptsMemory, func(b *trial[kernel.ExpertDevice]) []float32 {
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
	{"WaitFor", 5, 0, func(b *trial[kernel.ExpertDevice]) []float32 {
		x := b.mat(1, 1+b.rand.IntN(90))
		b.dev.WaitFor(b.dev.Record())
		b.dev.Add(x, x, x)
		return b.read(x.Buf)
	}},
	{"Linear", 30, 0, func(b *trial[kernel.ExpertDevice]) []float32 {
		out, in, rows := 1+b.rand.IntN(150), 1+b.rand.IntN(300), b.rand.IntN(30)
		dst, bias := b.mat(rows, out), b.vector(out)
		if b.rand.IntN(2) == 0 {
			bias = nil
		}
		b.dev.Linear(dst, b.mat(rows, in), b.weight(out, in), bias)
		return b.read(dst.Buf)
	}},
	{"GroupedLinear", 20, 0, func(b *trial[kernel.ExpertDevice]) []float32 {
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
		if !b.sometimes(kernel.GroupedBias) {
			biases = nil
		}
		b.dev.GroupedLinear(dst, b.mat(rows, in), weights, biases, offsets)
		return b.read(dst.Buf)
	}},
	{"RMSNorm", 20, 0, func(b *trial[kernel.ExpertDevice]) []float32 {
		groups, part, rows := 1+b.rand.IntN(4), 1+b.rand.IntN(70), b.rand.IntN(5)
		n := part
		if b.rand.IntN(2) == 0 {
			n *= groups
		}
		dst := b.mat(rows, part*groups)
		b.dev.RMSNorm(dst, b.mat(rows, part*groups), b.vector(n), groups, 1e-6)
		return b.read(dst.Buf)
	}},
	{"Clamp", 5, 0, func(b *trial[kernel.ExpertDevice]) []float32 {
		x := b.mat(b.rand.IntN(5), 1+b.rand.IntN(90))
		b.dev.Clamp(x, 0.5)
		return b.read(x.Buf)
	}},
	{"SwiGLU", 10, 0, func(b *trial[kernel.ExpertDevice]) []float32 {
		rows, cols := b.rand.IntN(5), 1+b.rand.IntN(90)
		dst := b.mat(rows, cols)
		p := kernel.SwiGLUParams{}
		if b.sometimes(kernel.ShapedSwiGLU) {
			p = kernel.SwiGLUParams{Limit: float32(b.rand.IntN(2)), Alpha: 1.702, Offset: 1}
		}
		b.dev.SwiGLU(dst, b.mat(rows, 2*cols), p)
		return b.read(dst.Buf)
	}},
	{"ScaleRows", 5, 0, func(b *trial[kernel.ExpertDevice]) []float32 {
		rows := b.rand.IntN(5)
		x := b.mat(rows, 1+b.rand.IntN(90))
		b.dev.ScaleRows(x, b.mat(rows, 1))
		return b.read(x.Buf)
	}},
	{"Add", 5, 0, func(b *trial[kernel.ExpertDevice]) []float32 {
		rows, cols := b.rand.IntN(5), 1+b.rand.IntN(90)
		dst := b.mat(rows, cols)
		b.dev.Add(dst, b.mat(rows, cols), dst)
		return b.read(dst.Buf)
	}},
	{"CopyRows", 10, 0, func(b *trial[kernel.ExpertDevice]) []float32 {
		rows, cols := 1+b.rand.IntN(5), 1+b.rand.IntN(90)
		dst := b.mat(rows, cols)
		b.dev.CopyRows(dst, nil, b.mat(rows, cols), b.indices(rows, rows))
		return b.read(dst.Buf)
	}},
	{"EncodeRows", 20, 0, func(b *trial[kernel.ExpertDevice]) []float32 {
		rows, cols := 1+b.rand.IntN(5), 1+b.rand.IntN(90)
		m := b.coded(rows, cols)
		b.dev.EncodeRows(m, b.mat(rows, cols), b.indices(rows, rows))
		return b.readBytes(m.Buf)
	}},
	{"DecodeRows", 20, 0, func(b *trial[kernel.ExpertDevice]) []float32 {
		rows, cols := 1+b.rand.IntN(5), 1+b.rand.IntN(90)
		m, dst := b.coded(rows, cols), b.mat(rows, cols)
		b.dev.EncodeRows(m, b.mat(rows, cols), nil)
		b.dev.DecodeRows(dst, nil, m, b.indices(rows, rows))
		return b.read(dst.Buf)
	}},
	{"Combine", 10, 0, func(b *trial[kernel.ExpertDevice]) []float32 {
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
}
