package kerneltest

import (
	"errors"

	"github.com/stretchr/testify/require"

	"github.com/tandem-moe/tandem/kernel"
)

// form is a use of an operation that needs one capability and no other. A device that
// lacks the capability must refuse it.
type form[D kernel.ExpertDevice] struct {
	needs   kernel.Capabilities
	refused func(b *trial[D]) // fails the test unless the device refuses the form
}

// panics is a form of an operation with operands that prepare makes: the operation must
// panic as it is called, not later when the queue reaches it.
func panics[D kernel.ExpertDevice](needs kernel.Capabilities, prepare func(b *trial[D]) func()) form[D] {
	return form[D]{needs, func(b *trial[D]) {
		require.Panics(b.t, prepare(b), "the device %q lacks %v", b.props.Name, needs)
	}}
}

var expertForms = []form[kernel.ExpertDevice]{
	{kernel.AdoptsMemory, func(b *trial[kernel.ExpertDevice]) {
		whole := b.alloc(kernel.HostVisible, kernel.F32, 16)
		_, err := b.dev.Adopt(kernel.F32, whole.Bytes())
		require.ErrorIs(b.t, err, errors.ErrUnsupported)
	}},
	panics(kernel.GroupedBias, func(b *trial[kernel.ExpertDevice]) func() {
		dst, src, w, bias := b.mat(1, 8), b.mat(1, 8), b.weight(8, 8), b.vector(8)
		return func() { b.dev.GroupedLinear(dst, src, []kernel.Weight{w}, []kernel.Buffer{bias}, []int32{0, 1}) }
	}),
	panics(kernel.ShapedSwiGLU, func(b *trial[kernel.ExpertDevice]) func() {
		dst, gateUp := b.mat(1, 8), b.mat(1, 16)
		return func() { b.dev.SwiGLU(dst, gateUp, kernel.SwiGLUParams{Limit: 7}) }
	}),
}

var wholeForms = []form[kernel.Device]{
	panics(kernel.ValueDims, func(b *trial[kernel.Device]) func() {
		c, seqs := b.cache(8, 4)
		k, v := b.mat(1, 8), b.mat(1, 4)
		return func() { b.dev.StoreKV(c, k, v, seqs) }
	}),
	panics(kernel.Windows, func(b *trial[kernel.Device]) func() {
		return attends(b, kernel.AttentionParams{Heads: 1, Scale: 1, Window: 1})
	}),
	panics(kernel.Sinks, func(b *trial[kernel.Device]) func() {
		return attends(b, kernel.AttentionParams{Heads: 1, Scale: 1, Sinks: b.vector(1)})
	}),
	panics(kernel.PartialRope, func(b *trial[kernel.Device]) func() {
		return rotates(b, kernel.RopeParams{HeadDim: 10})
	}),
	panics(kernel.InterleavedRope, func(b *trial[kernel.Device]) func() {
		return rotates(b, kernel.RopeParams{HeadDim: 8, Interleaved: true})
	}),
	panics(kernel.SigmoidScores, func(b *trial[kernel.Device]) func() {
		return routes(b, kernel.RouterParams{TopK: 2, Scores: kernel.Sigmoid})
	}),
	panics(kernel.RouterBias, func(b *trial[kernel.Device]) func() {
		return routes(b, kernel.RouterParams{TopK: 2, Bias: b.vector(8)})
	}),
	panics(kernel.RouterGroups, func(b *trial[kernel.Device]) func() {
		return routes(b, kernel.RouterParams{TopK: 2, Groups: 4, TopGroups: 2, GroupBest: 1})
	}),
}

// cache is a cache of one head and page, with a sequence of one row.
func (b *trial[D]) cache(keyDim, valueDim int) (kernel.KV, []kernel.Sequence) {
	c := kernel.KV{PageTokens: kernel.KVBlock, Heads: 1, KeyDim: keyDim, ValueDim: valueDim}
	c.K, c.V = b.buffer(kernel.F32, c.PageTokens*keyDim), b.buffer(kernel.F32, c.PageTokens*valueDim)
	return c, []kernel.Sequence{{Rows: 1, Pages: []int32{0}}}
}

// attends returns an attention of one row.
func attends(b *trial[kernel.Device], p kernel.AttentionParams) func() {
	c, seqs := b.cache(8, 8)
	dst, q := b.mat(1, 8), b.mat(1, 8)
	return func() { b.dev.Attention(dst, q, c, seqs, p) }
}

// rotates returns a rotation of four pairs of a head.
func rotates(b *trial[kernel.Device], p kernel.RopeParams) func() {
	table, err := b.dev.NewRope(b.floats(4), 1, 10)
	require.NoError(b.t, err)
	x := b.mat(1, p.HeadDim)
	return func() { b.dev.RoPE(x, table, p, []int32{3}) }
}

// routes returns a choice among eight experts.
func routes(b *trial[kernel.Device], p kernel.RouterParams) func() {
	ids, weights, logits := b.buffer(kernel.I32, p.TopK), b.buffer(kernel.F32, p.TopK), b.mat(1, 8)
	return func() { b.dev.TopK(ids, weights, logits, p) }
}
