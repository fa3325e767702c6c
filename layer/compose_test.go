package layer

import (
	"context"
	"encoding/binary"
	"fmt"
	"math"
	"math/rand/v2"
	"os"
	"path/filepath"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/tandem-moe/tandem/kernel"
	"github.com/tandem-moe/tandem/kernel/kerneltest"
	"github.com/tandem-moe/tandem/model"
	"github.com/tandem-moe/tandem/model/checkpoint"
)

// specOfAllKinds is a model that uses what a Spec can say and no family of today does; the
// layers differ in their heads.
func specOfAllKinds() *model.Spec {
	return &model.Spec{
		Family: model.Qwen3MoE, Vocabulary: 50, Hidden: 32, NormEps: 1e-5, MaxPositions: 64,
		Attention:          model.Attention{Heads: 4, KVHeads: 2, HeadDim: 16, ValueDim: 12, Sinks: true, Bias: model.Biases{Q: true, O: true, K: true, V: true}},
		Rope:               model.Rope{Type: model.RopeDefault, Theta: 1e4, Dim: 8, First: 4, Interleaved: true},
		Router:             model.Router{Experts: 8, TopK: 2, Sigmoid: true, Bias: true, Groups: 4, TopGroups: 2, GroupBest: 2, Normalize: true, Scale: 2.5},
		ExpertIntermediate: 24, ExpertBias: true, SwiGLU: model.SwiGLU{Limit: 1, Alpha: 1.7, Offset: 1},
		Layers: []model.Layer{
			{Sparse: true, Window: 5},
			{Sparse: true, Attention: &model.Attention{Heads: 3, KVHeads: 1, HeadDim: 20, QKNorm: model.PerHead}},
		},
	}
}

// writeRandom writes a checkpoint with the tensors of a spec.
func writeRandom(t *testing.T, spec *model.Spec) *checkpoint.Checkpoint {
	c, err := spec.Catalogue(func(string) bool { return true })
	require.NoError(t, err)
	refs, err := c.Weights(model.Role{})
	require.NoError(t, err)
	experts, err := c.Weights(spec.AllExperts())
	require.NoError(t, err)
	r := rand.New(rand.NewPCG(1, 2))
	var tensors []checkpoint.Named
	for _, ref := range append(refs, experts...) {
		var data []byte
		for range ref.Elements() {
			data = binary.LittleEndian.AppendUint32(data, math.Float32bits(r.Float32()-0.5))
		}
		tensors = append(tensors, checkpoint.Named{Name: ref.Name, Tensor: checkpoint.Tensor{DType: checkpoint.F32, Shape: ref.Shape, Data: data}})
	}
	dir := t.TempDir()
	f, err := os.Create(filepath.Join(dir, "model.safetensors"))
	require.NoError(t, err)
	require.NoError(t, checkpoint.Write(f, nil, tensors))
	require.NoError(t, f.Close())
	ckpt, err := checkpoint.Open(dir)
	require.NoError(t, err)
	t.Cleanup(func() { require.NoError(t, ckpt.Close()) })
	return ckpt
}

// partsOf is a model's parts on a device, and what gives their memory back.
type partsOf struct {
	*Attention
	experts *Experts
	weights *ExpertWeights
	rows    *Activations
}

func load(t *testing.T, dev kernel.Device, ckpt *checkpoint.Checkpoint, spec *model.Spec, capacity int) (p partsOf, free func()) {
	w, err := LoadAttention(t.Context(), dev, ckpt, spec, 64, nil)
	require.NoError(t, err)
	ew, err := LoadExperts(t.Context(), dev, ckpt, spec, spec.AllExperts().Experts, nil)
	require.NoError(t, err)
	cache, err := NewCache(dev, spec, 2, 16)
	require.NoError(t, err)
	require.EqualValues(t, 4*16*(2*16+2*12+20+20), CacheBytes(spec, 16))
	require.EqualValues(t, CacheBytes(spec, 16), cache.PageBytes())
	p.Attention, err = NewAttention(dev, spec, w, cache)
	require.NoError(t, err)
	p.experts, err = NewExperts(dev, spec)
	p.weights = ew
	require.NoError(t, err)
	p.rows, err = p.NewActivations(capacity)
	require.NoError(t, err)
	return p, func() {
		p.FreeActivations(p.rows)
		p.experts.Free()
		cache.Free(dev)
		ew.Free(dev)
		w.Free(dev)
	}
}

// TestLayersSayAllKinds computes a model of all kinds by its parts, a prompt in two
// chunks, and by the device's operations one after the other: the bits are the same.
func TestLayersSayAllKinds(t *testing.T) {
	cpu, err := kernel.NewCPU(kernel.CPUOptions{Threads: 1})
	require.NoError(t, err)
	dev := kerneltest.NewLedger(kerneltest.NewDiscrete(cpu))
	spec := specOfAllKinds()
	ckpt := writeRandom(t, spec)
	ids := []int32{3, 7, 40, 2, 2, 11, 30, 8, 1, 49, 5, 6, 9, 12, 20, 21, 22, 23, 31, 4}
	p, free := load(t, dev, ckpt, spec, len(ids))
	var got []float32
	for _, chunk := range [][2]int{{0, 13}, {13, len(ids)}} {
		got = append(got, p.step(t, dev, ids[chunk[0]:chunk[1]], chunk[0])...)
	}
	free()
	require.Zero(t, dev.Live(), "buffers that nobody gave back")

	b := &workbench{t: t, dev: dev, ckpt: ckpt}
	require.Equal(t, b.allKinds(spec, ids), got)
	require.NoError(t, dev.Close())
}

// step computes a chunk of one sequence and returns its logits.
func (p *partsOf) step(t *testing.T, dev kernel.Device, ids []int32, at int) []float32 {
	b := &workbench{t: t, dev: dev}
	var pos, rows []int32
	for i := range ids {
		pos, rows = append(pos, int32(at+i)), append(rows, int32(i))
	}
	p.Embed(p.rows, ids)
	seqs := []kernel.Sequence{{Rows: len(ids), Pos: at, Pages: []int32{1, 0}}}
	for l := range p.spec.Layers {
		p.Forward(l, p.rows, seqs, pos)
		require.NoError(t, dev.Record().Wait(t.Context()))
		g := groupByExpert(p.rows.TopKIDs.Host().Bytes(), len(ids), p.spec.Router)
		n := len(g.rows)
		in, gate, out := b.mat(n, p.spec.Hidden), b.mat(n, 1), b.mat(n, p.spec.Hidden)
		dev.CopyRows(in, nil, p.rows.Normed, g.rows)
		dev.CopyRows(gate, nil, kernel.MatOf(p.rows.TopKWeights.Buffer, n, 1), g.choices)
		w := p.weights.Layer(l, p.spec.AllExperts().Experts[l])
		require.NoError(t, p.experts.Forward(w, out, in, gate, g.offsets))
		p.Combine(p.rows, out, g.order, g.perRow)
		b.free(in, gate, out)
	}
	logits, lse := b.mat(len(ids), p.spec.Vocabulary), b.mat(len(ids), 1)
	p.Head(logits, lse, p.rows, rows)
	defer b.free(logits, lse)
	return b.read(logits)
}

func (b *workbench) free(ms ...kernel.Mat) {
	for _, m := range ms {
		b.dev.Free(m.Buf)
	}
}

// allKinds is the plain version: each tensor by its name, each operation by itself.
func (b *workbench) allKinds(s *model.Spec, ids []int32) []float32 {
	eps := float32(s.NormEps)
	k := &kind{workbench: b, eps: eps, layers: len(s.Layers)}
	inv, scale, err := Frequencies(s.Rope)
	require.NoError(b.t, err)
	rope, err := b.dev.NewRope(inv, scale, 64)
	require.NoError(b.t, err)
	k.attend = func(l int, x kernel.Mat) {
		prefix, a := fmt.Sprintf("model.layers.%d.self_attn.", l), s.AttentionOf(l)
		h := b.norm(x, fmt.Sprintf("model.layers.%d.input_layernorm", l), eps)
		q, keys, v := b.linear(h, prefix+"q_proj"), b.linear(h, prefix+"k_proj"), b.linear(h, prefix+"v_proj")
		params := kernel.AttentionParams{Heads: 4, Scale: 0.25, Window: 5}
		if l == 0 {
			params.Sinks = b.vector(prefix + "sinks")
		} else {
			params = kernel.AttentionParams{Heads: 3, Scale: float32(1 / math.Sqrt(20))}
			b.dev.RMSNorm(q, q, b.vector(prefix+"q_norm.weight"), 3, eps)
			b.dev.RMSNorm(keys, keys, b.vector(prefix+"k_norm.weight"), 1, eps)
		}
		turn := kernel.RopeParams{HeadDim: a.HeadDim, First: 4, Interleaved: true}
		b.dev.RoPE(q, rope, turn, b.pos)
		b.dev.RoPE(keys, rope, turn, b.pos)
		kv := kernel.KV{Heads: a.KVHeads, KeyDim: a.HeadDim, ValueDim: a.ValueWidth()}
		b.dev.Add(x, x, b.linear(b.attention(q, keys, v, kv, params), prefix+"o_proj"))
	}
	k.feed = func(l int, x kernel.Mat) {
		prefix := fmt.Sprintf("model.layers.%d.mlp.", l)
		h := b.norm(x, fmt.Sprintf("model.layers.%d.post_attention_layernorm", l), eps)
		m := mixture{swiGLU: kernel.SwiGLUParams{Limit: 1, Alpha: 1.7, Offset: 1}}
		for e := range 8 {
			name := fmt.Sprintf("%sexperts.%d.", prefix, e)
			m.gateUp = append(m.gateUp, b.pack(b.matrix(name+"gate_proj.weight"), b.matrix(name+"up_proj.weight")))
			m.down = append(m.down, b.pack(b.matrix(name+"down_proj.weight")))
			gate, _ := b.tensor(name + "gate_proj.bias")
			up, _ := b.tensor(name + "up_proj.bias")
			m.gateUpBias = append(m.gateUpBias, b.load(kernel.F32, append(gate.Data, up.Data...)))
			m.downBias = append(m.downBias, b.vector(name+"down_proj.bias"))
		}
		b.experts(x, h, b.linear(h, prefix+"gate"), kernel.RouterParams{
			TopK: 2, Scores: kernel.Sigmoid, Bias: b.vector(prefix + "gate.e_score_correction_bias"),
			Groups: 4, TopGroups: 2, GroupBest: 2, Normalize: true, Scale: 2.5,
		}, m)
	}
	return k.logits(ids, nil)
}

// TestADeviceIsAskedBeforeItStarts: what a model needs and the device cannot do is an error
// with its name, before weights are loaded and when the parts are made.
func TestADeviceIsAskedBeforeItStarts(t *testing.T) {
	cpu, err := kernel.NewCPU(kernel.CPUOptions{Threads: 1})
	require.NoError(t, err)
	defer cpu.Close()
	spec := specOfAllKinds()
	for cannot, want := range map[kernel.Capabilities]string{
		kernel.Windows: "attention windows", kernel.Sinks: "attention sinks", kernel.ValueDims: "values of another width than keys",
		kernel.PartialRope: "rotating a part of a head", kernel.InterleavedRope: "rotating interleaved pairs",
		kernel.SigmoidScores: "a router with sigmoid scores", kernel.RouterBias: "a router with a bias", kernel.RouterGroups: "a router with groups",
	} {
		dev := kerneltest.Without(cpu, cannot)
		want = fmt.Sprintf("attention: the device %q cannot do what the model needs: %s", dev.Properties().Name, want)
		_, err := LoadAttention(context.Background(), dev, nil, spec, 64, nil)
		require.EqualError(t, err, want)
		_, err = NewAttention(dev, spec, nil, nil)
		require.EqualError(t, err, want)
		require.NoError(t, CheckExperts(dev.Properties(), spec))
	}
	for cannot, want := range map[kernel.Capabilities]string{
		kernel.GroupedBias: "biases of grouped products", kernel.ShapedSwiGLU: "a SwiGLU of another shape than silu(g)·u",
	} {
		dev := kerneltest.Without(cpu, cannot)
		want = fmt.Sprintf("experts: the device %q cannot do what the model needs: %s", dev.Properties().Name, want)
		_, err := LoadExperts(context.Background(), dev, nil, spec, spec.AllExperts().Experts, nil)
		require.EqualError(t, err, want)
		_, err = NewExperts(dev, spec)
		require.EqualError(t, err, want)
		require.NoError(t, CheckAttention(dev.Properties(), spec), "no dense layer")
	}
	spec.DenseIntermediate = 8
	require.ErrorContains(t, CheckAttention(kerneltest.Without(cpu, kernel.ShapedSwiGLU).Properties(), spec), "SwiGLU")
	plain := &model.Spec{Attention: model.Attention{HeadDim: 8}, Rope: model.Rope{Dim: 8}, Layers: make([]model.Layer, 1), DenseIntermediate: 8}
	require.NoError(t, CheckAttention(kerneltest.Without(cpu, kernel.AllCapabilities).Properties(), plain), "the plainest model needs nothing")
	require.NoError(t, CheckExperts(kerneltest.Without(cpu, kernel.AllCapabilities).Properties(), plain))
}
