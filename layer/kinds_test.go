package layer

import (
	"context"
	"encoding/binary"
	"fmt"
	"math"
	"slices"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/tandem-moe/tandem/internal/oracle"
	"github.com/tandem-moe/tandem/kernel"
	"github.com/tandem-moe/tandem/kernel/kerneltest"
	"github.com/tandem-moe/tandem/model"
	"github.com/tandem-moe/tandem/model/checkpoint"
)

// kind is a model of a family that is not served yet, computed with a device's operations
// alone: a test that they can say what the family computes.
type kind struct {
	*workbench
	eps    float32
	layers int
	// attend and feed add attention's and the experts' (or the MLP's) results of layer l to
	// the residual stream x.
	attend, feed func(l int, x kernel.Mat)
}

// workbench is a device with a checkpoint, and what compositions have in common.
type workbench struct {
	t    *testing.T
	dev  kernel.Device
	ckpt *checkpoint.Checkpoint
	pos  []int32
}

func newWorkbench(t *testing.T, dev kernel.Device, dir string) *workbench {
	ckpt, err := checkpoint.Open(dir)
	require.NoError(t, err)
	t.Cleanup(func() { require.NoError(t, ckpt.Close()) })
	return &workbench{t: t, dev: dev, ckpt: ckpt}
}

func (b *workbench) tensor(name string) (checkpoint.Tensor, kernel.DType) {
	x, err := b.ckpt.Tensor(name)
	require.NoError(b.t, err)
	dtype, err := dtypeOf(x)
	require.NoError(b.t, err)
	return x, dtype
}

func (b *workbench) pack(parts ...kernel.HostMatrix) kernel.Weight {
	w, err := b.dev.Pack(parts...)
	require.NoError(b.t, err)
	return w
}

// matrix is a tensor [out, in].
func (b *workbench) matrix(name string) kernel.HostMatrix {
	x, dtype := b.tensor(name)
	return kernel.HostMatrix{DType: dtype, Out: x.Shape[0], In: x.Shape[1], Data: x.Data}
}

func (b *workbench) vector(name string) kernel.Buffer {
	x, dtype := b.tensor(name)
	return b.load(dtype, x.Data)
}

func (b *workbench) load(dtype kernel.DType, data []byte) kernel.Buffer {
	v, err := b.dev.Vector(dtype, data)
	require.NoError(b.t, err)
	return v
}

func (b *workbench) mat(rows, cols int) kernel.Mat {
	buf, err := b.dev.Alloc(kernel.DeviceMemory, kernel.F32, rows*cols)
	require.NoError(b.t, err)
	return kernel.MatOf(buf, rows, cols)
}

// linear is a projection under a name, with its bias where it has one.
func (b *workbench) linear(x kernel.Mat, name string) kernel.Mat {
	var bias kernel.Buffer
	if b.ckpt.Has(name + ".bias") {
		bias = b.vector(name + ".bias")
	}
	w := b.pack(b.matrix(name + ".weight"))
	dst := b.mat(x.Rows, w.Out())
	b.dev.Linear(dst, x, w, bias)
	return dst
}

func (b *workbench) norm(x kernel.Mat, name string, eps float32) kernel.Mat {
	dst := b.mat(x.Rows, x.Cols)
	b.dev.RMSNorm(dst, x, b.vector(name+".weight"), 1, eps)
	return dst
}

// read returns a matrix without gaps.
func (b *workbench) read(m kernel.Mat) []float32 {
	host := make([]byte, 4*m.Rows*m.Cols)
	b.dev.Read(host, m.Buf, m.Off)
	require.NoError(b.t, b.dev.Record().Wait(context.Background()))
	f := make([]float32, m.Rows*m.Cols)
	for i := range f {
		f[i] = math.Float32frombits(binary.LittleEndian.Uint32(host[4*i:]))
	}
	return f
}

// attention stores keys and values of a new sequence, and attends to them.
func (b *workbench) attention(q, k, v kernel.Mat, kv kernel.KV, p kernel.AttentionParams) kernel.Mat {
	kv.PageTokens = 16
	pages := (q.Rows + 15) / 16
	kv.K, kv.V = b.mat(1, pages*16*k.Cols).Buf, b.mat(1, pages*16*v.Cols).Buf
	s := kernel.Sequence{Rows: q.Rows}
	for page := range pages {
		s.Pages = append(s.Pages, int32(pages-1-page))
	}
	b.dev.StoreKV(kv, k, v, []kernel.Sequence{s})
	dst := b.mat(q.Rows, p.Heads*kv.ValueDim)
	b.dev.Attention(dst, q, kv, []kernel.Sequence{s}, p)
	return dst
}

// mixture is a layer's experts as products take them.
type mixture struct {
	gateUp, down         []kernel.Weight
	gateUpBias, downBias []kernel.Buffer
	swiGLU               kernel.SwiGLUParams
}

// experts routes rows by their logits, and adds the experts' results to the residual
// stream.
func (b *workbench) experts(residual, x, logits kernel.Mat, p kernel.RouterParams, m mixture) {
	n := x.Rows * p.TopK
	ids, err := kernel.NewMirror(b.dev, kernel.I32, n)
	require.NoError(b.t, err)
	weights := b.mat(n, 1)
	b.dev.TopK(ids.Buffer, weights.Buf, logits, p)
	ids.Fetch(b.dev, n)
	require.NoError(b.t, b.dev.Record().Wait(context.Background()))
	g := groupByExpert(ids.Host().Bytes(), x.Rows, model.Router{Experts: len(m.down), TopK: p.TopK})
	in, gate, inner := b.mat(n, x.Cols), b.mat(n, 1), m.down[0].In()
	b.dev.CopyRows(in, nil, x, g.rows)
	b.dev.CopyRows(gate, nil, weights, g.choices)
	gateUp, hidden, out := b.mat(n, 2*inner), b.mat(n, inner), b.mat(n, x.Cols)
	b.dev.GroupedLinear(gateUp, in, m.gateUp, m.gateUpBias, g.offsets)
	b.dev.SwiGLU(hidden, gateUp, m.swiGLU)
	b.dev.GroupedLinear(out, hidden, m.down, m.downBias, g.offsets)
	b.dev.ScaleRows(out, gate)
	b.dev.Combine(residual, residual, out, g.order, g.perRow)
}

// grouping is rows' choices in the order of the experts.
type grouping struct {
	rows, choices []int32
	offsets       []int32 // by expert
	order         []int32 // of each choice, its place
	perRow        []int32 // where each row's choices end
}

func groupByExpert(ids []byte, rows int, r model.Router) grouping {
	g := grouping{offsets: []int32{0}, order: make([]int32, rows*r.TopK), perRow: []int32{0}}
	for e := range r.Experts {
		for i := range g.order {
			if int(binary.LittleEndian.Uint32(ids[4*i:])) == e {
				g.order[i] = int32(len(g.rows))
				g.rows, g.choices = append(g.rows, int32(i/r.TopK)), append(g.choices, int32(i))
			}
		}
		g.offsets = append(g.offsets, int32(len(g.rows)))
	}
	for row := range rows {
		g.perRow = append(g.perRow, int32((row+1)*r.TopK))
	}
	return g
}

// logits computes a prompt, and tells hidden, where it is not nil, each layer's output.
func (k *kind) logits(ids []int32, hidden func(layer int, x []float32)) []float32 {
	k.pos = nil
	for i := range ids {
		k.pos = append(k.pos, int32(i))
	}
	table := k.pack(k.matrix("model.embed_tokens.weight"))
	x := k.mat(len(ids), table.In())
	k.dev.Embed(x, table, ids)
	for l := range k.layers {
		k.attend(l, x)
		k.feed(l, x)
		if hidden != nil {
			hidden(l, k.read(x))
		}
	}
	return k.read(k.linear(k.norm(x, "model.norm", k.eps), "lm_head"))
}

// compare holds a kind against Hugging Face's outputs, on a device whose memory the host
// cannot address.
func compare(t *testing.T, family model.Family, newKind func(b *workbench) *kind) {
	for _, dir := range oracle.Models(t, family) {
		cpu, err := kernel.NewCPU(kernel.CPUOptions{Threads: 1})
		require.NoError(t, err)
		dev := kerneltest.NewDiscrete(cpu)
		ref, k := oracle.Load(t, dir), newKind(newWorkbench(t, dev, dir))
		if k == nil {
			require.NoError(t, dev.Close())
			continue
		}
		for p, prompt := range ref.Prompts {
			var hidden func(int, []float32)
			if p == oracle.HiddenPrompt {
				hidden = func(l int, x []float32) {
					if l+1 < k.layers { // the reference has the last one after the norm
						near(t, ref.Hidden(t, l+1).Data, x, fmt.Sprintf("%s: output of layer %d", family, l))
					}
				}
			}
			near(t, ref.Logits(t, p).Data, k.logits(prompt, hidden), fmt.Sprintf("%s: logits of prompt %d", family, p))
		}
		require.NoError(t, dev.Close())
	}
}

func near(t *testing.T, want, got []float32, what string) {
	t.Helper()
	require.Len(t, got, len(want), what)
	for i := range want {
		require.InDelta(t, float64(want[i]), float64(got[i]), 1e-4, "%s, element %d", what, i)
	}
}

// TestTheDeviceSaysGptOss: attention sinks, windows in every other layer, YaRN, biases
// everywhere, a limited SwiGLU.
func TestTheDeviceSaysGptOss(t *testing.T) {
	compare(t, "gpt_oss", func(b *workbench) *kind {
		const heads, kvHeads, dim, eps = 4, 2, 32, 1e-5
		inv, scale, err := Frequencies(model.Rope{
			Type: model.RopeYarn, Theta: 150000, Dim: dim, Factor: 4, OriginalPositions: 64, BetaFast: 32, BetaSlow: 1,
		})
		require.NoError(t, err)
		rope, err := b.dev.NewRope(inv, scale, 256)
		require.NoError(t, err)
		k := &kind{workbench: b, eps: eps, layers: 4}
		k.attend = func(l int, x kernel.Mat) {
			p := fmt.Sprintf("model.layers.%d.", l)
			h := b.norm(x, p+"input_layernorm", eps)
			q, keys, v := b.linear(h, p+"self_attn.q_proj"), b.linear(h, p+"self_attn.k_proj"), b.linear(h, p+"self_attn.v_proj")
			b.dev.RoPE(q, rope, kernel.RopeParams{HeadDim: dim}, b.pos)
			b.dev.RoPE(keys, rope, kernel.RopeParams{HeadDim: dim}, b.pos)
			params := kernel.AttentionParams{Heads: heads, Scale: float32(1 / math.Sqrt(dim)), Sinks: b.vector(p + "self_attn.sinks")}
			if l%2 == 0 {
				params.Window = 24
			}
			a := b.attention(q, keys, v, kernel.KV{Heads: kvHeads, KeyDim: dim, ValueDim: dim}, params)
			b.dev.Add(x, x, b.linear(a, p+"self_attn.o_proj"))
		}
		k.feed = func(l int, x kernel.Mat) {
			p := fmt.Sprintf("model.layers.%d.", l)
			h := b.norm(x, p+"post_attention_layernorm", eps)
			m := mixture{swiGLU: kernel.SwiGLUParams{Limit: 7, Alpha: 1.702, Offset: 1}}
			for e := range 8 {
				m.gateUp = append(m.gateUp, b.pack(b.transposed(p+"mlp.experts.gate_up_proj", e, true)))
				m.down = append(m.down, b.pack(b.transposed(p+"mlp.experts.down_proj", e, false)))
				m.gateUpBias = append(m.gateUpBias, b.rowOf(p+"mlp.experts.gate_up_proj_bias", e, true))
				m.downBias = append(m.downBias, b.rowOf(p+"mlp.experts.down_proj_bias", e, false))
			}
			// Hugging Face takes the softmax of the chosen logits: that of all, normalised.
			b.experts(x, h, b.linear(h, p+"mlp.router"), kernel.RouterParams{TopK: 2, Normalize: true}, m)
		}
		return k
	})
}

// apart is the order in which interleaved outputs (gate, up, gate, up, …) are gates and
// then ups.
func apart(n int) (order []int) {
	for first := range 2 {
		for i := first; i < n; i += 2 {
			order = append(order, i)
		}
	}
	return order
}

// transposed is expert e's matrix of a tensor [experts, in, out] in BF16.
func (b *workbench) transposed(name string, e int, interleaved bool) kernel.HostMatrix {
	x, dtype := b.tensor(name)
	in, out := x.Shape[1], x.Shape[2]
	data := x.Data[2*e*in*out:]
	m := kernel.HostMatrix{DType: dtype, Out: out, In: in}
	order := slices.Collect(seq(out))
	if interleaved {
		order = apart(out)
	}
	for _, o := range order {
		for i := range in {
			m.Data = append(m.Data, data[2*(i*out+o):2*(i*out+o)+2]...)
		}
	}
	return m
}

func seq(n int) func(func(int) bool) {
	return func(yield func(int) bool) {
		for i := 0; i < n && yield(i); i++ {
		}
	}
}

// rowOf is expert e's row of a tensor [experts, out] in BF16.
func (b *workbench) rowOf(name string, e int, interleaved bool) kernel.Buffer {
	x, dtype := b.tensor(name)
	out := x.Shape[1]
	row := x.Data[2*e*out : 2*(e+1)*out]
	if interleaved {
		var data []byte
		for _, o := range apart(out) {
			data = append(data, row[2*o:2*o+2]...)
		}
		row = data
	}
	return b.load(dtype, row)
}

// deepSeek is DeepSeek's latent attention, of heads of 24 elements without a position and
// 16 with one, and values of 20, and experts beside a shared one.
func deepSeek(t *testing.T, experts int, router func(b *workbench, prefix string) kernel.RouterParams) func(b *workbench) *kind {
	return func(b *workbench) *kind {
		const heads, plain, rotated, dim, valueDim, latent, eps = 4, 24, 16, 40, 20, 32, 1e-6
		inv, scale, err := Frequencies(model.Rope{Type: model.RopeDefault, Theta: 10000, Dim: rotated})
		require.NoError(t, err)
		rope, err := b.dev.NewRope(inv, scale, 256)
		require.NoError(t, err)
		params := kernel.RopeParams{HeadDim: dim, First: plain, Interleaved: true}
		k := &kind{workbench: b, eps: eps, layers: 4}
		k.attend = func(l int, x kernel.Mat) {
			p := fmt.Sprintf("model.layers.%d.", l)
			h := b.norm(x, p+"input_layernorm", eps)
			q := b.linear(b.norm(b.linear(h, p+"self_attn.q_a_proj"), p+"self_attn.q_a_layernorm", eps), p+"self_attn.q_b_proj")
			down := b.linear(h, p+"self_attn.kv_a_proj_with_mqa")
			up := b.linear(b.norm(down.ColRange(0, latent), p+"self_attn.kv_a_layernorm", eps), p+"self_attn.kv_b_proj")
			keys, values := b.mat(x.Rows, heads*dim), b.mat(x.Rows, heads*valueDim)
			for head := range heads {
				from := head * (plain + valueDim)
				b.dev.CopyRows(keys.ColRange(head*dim, head*dim+plain), nil, up.ColRange(from, from+plain), nil)
				b.dev.CopyRows(keys.ColRange(head*dim+plain, (head+1)*dim), nil, down.ColRange(latent, latent+rotated), nil)
				b.dev.CopyRows(values.ColRange(head*valueDim, (head+1)*valueDim), nil, up.ColRange(from+plain, from+plain+valueDim), nil)
			}
			b.dev.RoPE(q, rope, params, b.pos)
			b.dev.RoPE(keys, rope, params, b.pos)
			a := b.attention(q, keys, values, kernel.KV{Heads: heads, KeyDim: dim, ValueDim: valueDim},
				kernel.AttentionParams{Heads: heads, Scale: float32(1 / math.Sqrt(dim))})
			b.dev.Add(x, x, b.linear(a, p+"self_attn.o_proj"))
		}
		k.feed = func(l int, x kernel.Mat) {
			p := fmt.Sprintf("model.layers.%d.", l)
			h := b.norm(x, p+"post_attention_layernorm", eps)
			if l == 0 {
				b.dev.Add(x, x, b.mlp(h, p+"mlp."))
				return
			}
			var m mixture
			for e := range experts {
				name := fmt.Sprintf("%smlp.experts.%d.", p, e)
				m.gateUp = append(m.gateUp, b.pack(b.matrix(name+"gate_proj.weight"), b.matrix(name+"up_proj.weight")))
				m.down = append(m.down, b.pack(b.matrix(name+"down_proj.weight")))
			}
			b.experts(x, h, b.linear(h, p+"mlp.gate"), router(b, p), m)
			b.dev.Add(x, x, b.mlp(h, p+"mlp.shared_experts."))
		}
		return k
	}
}

func (b *workbench) mlp(x kernel.Mat, prefix string) kernel.Mat {
	w := b.pack(b.matrix(prefix+"gate_proj.weight"), b.matrix(prefix+"up_proj.weight"))
	gateUp, hidden := b.mat(x.Rows, w.Out()), b.mat(x.Rows, w.Out()/2)
	b.dev.Linear(gateUp, x, w, nil)
	b.dev.SwiGLU(hidden, gateUp, kernel.SwiGLUParams{})
	return b.linear(hidden, prefix+"down_proj")
}

// TestTheDeviceSaysDeepSeekV3: keys and values of different widths, a part of each head
// rotated in interleaved pairs, sigmoid scores with a bias, groups and a scale.
func TestTheDeviceSaysDeepSeekV3(t *testing.T) {
	compare(t, "deepseek_v3", deepSeek(t, 16, func(b *workbench, prefix string) kernel.RouterParams {
		return kernel.RouterParams{
			TopK: 4, Scores: kernel.Sigmoid, Bias: b.vector(prefix + "mlp.gate.e_score_correction_bias"),
			Groups: 4, TopGroups: 2, GroupBest: 2, Normalize: true, Scale: 2.5,
		}
	}))
}

// TestTheDeviceSaysDeepSeekV2: groups by their best expert, and softmax weights that are
// scaled and not normalised.
func TestTheDeviceSaysDeepSeekV2(t *testing.T) {
	compare(t, "deepseek_v2", func(b *workbench) *kind {
		if !b.ckpt.Has("model.layers.1.self_attn.q_a_proj.weight") {
			return nil // of another shape: without compressed queries
		}
		return deepSeek(t, 8, func(*workbench, string) kernel.RouterParams {
			return kernel.RouterParams{TopK: 3, Groups: 4, TopGroups: 2, GroupBest: 1, Scale: 2.5}
		})(b)
	})
}
