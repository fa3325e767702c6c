package model

import (
	"fmt"
	"slices"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
)

func anything(string) bool { return true }

func catalogue(t *testing.T, f fields, has func(string) bool) *Catalogue {
	t.Helper()
	c, err := f.must(t).Catalogue(has)
	require.NoError(t, err)
	return c
}

// shapes lists a catalogue's tensors as a checkpoint would.
func (c *Catalogue) shapes() map[string][]int {
	m := map[string][]int{}
	for _, r := range c.all() {
		m[r.Name] = r.Whole
	}
	return m
}

func TestNamesOfMixtral(t *testing.T) {
	c := catalogue(t, mixtral.with(fields{"num_key_value_heads": 2}), anything)
	require.Equal(t, whole("model.layers.1.block_sparse_moe.experts.7.w1.weight", 48, 32), c.Layers[1].Experts[7].Gate)
	require.Equal(t, whole("model.layers.1.block_sparse_moe.experts.7.w3.weight", 48, 32), c.Layers[1].Experts[7].Up)
	require.Equal(t, whole("model.layers.1.block_sparse_moe.experts.7.w2.weight", 32, 48), c.Layers[1].Experts[7].Down)
	require.Equal(t, whole("model.layers.0.block_sparse_moe.gate.weight", 8, 32), c.Layers[0].Router)
	require.Equal(t, whole("model.layers.2.self_attn.k_proj.weight", 16, 32), c.Layers[2].K)
	require.Equal(t, whole("lm_head.weight", 100, 32), c.Head)
	require.False(t, c.Layers[0].QBias.Present() || c.Layers[0].QNorm.Present() || c.Layers[0].Dense.Gate.Present())
}

func TestNamesOfQwen(t *testing.T) {
	c := catalogue(t, qwen3MoE.with(fields{"attention_bias": true, "mlp_only_layers": []int{0}, "head_dim": 10, "tie_word_embeddings": true}), anything)
	require.Equal(t, whole("model.layers.0.mlp.down_proj.weight", 32, 40), c.Layers[0].Dense.Down)
	require.Nil(t, c.Layers[0].Experts)
	require.False(t, c.Layers[0].Router.Present())
	require.Equal(t, whole("model.layers.1.mlp.experts.3.up_proj.weight", 16, 32), c.Layers[1].Experts[3].Up)
	require.Equal(t, whole("model.layers.1.self_attn.q_norm.weight", 10), c.Layers[1].QNorm)
	require.Equal(t, whole("model.layers.1.self_attn.o_proj.weight", 32, 40), c.Layers[1].O)
	require.Equal(t, whole("model.layers.1.self_attn.o_proj.bias", 32), c.Layers[1].OBias)
	require.Equal(t, whole("model.layers.1.self_attn.v_proj.bias", 40), c.Layers[1].VBias)
	require.Equal(t, c.Embedding, c.Head)
}

func TestNormOfTheWholeProjection(t *testing.T) {
	c := catalogue(t, olmoe.with(fields{"num_key_value_heads": 2}), anything)
	require.Equal(t, []int{32}, c.Layers[0].QNorm.Shape)
	require.Equal(t, []int{16}, c.Layers[0].KNorm.Shape)
}

// TestFusedExperts: an expert's matrices follow each other in the joint tensor.
func TestFusedExperts(t *testing.T) {
	fused := func(name string) bool {
		return !strings.Contains(name, ".experts.") || strings.HasSuffix(name, ".experts.down_proj") || strings.HasSuffix(name, ".experts.gate_up_proj")
	}
	for _, f := range []fields{mixtral.with(fields{"num_key_value_heads": 4, "intermediate_size": 16}), qwen3MoE} {
		c := catalogue(t, f, fused)
		e := c.Layers[1].Experts[3]
		joint := []int{8, 32, 32}
		require.Equal(t, Ref{Name: "model.layers.1.mlp.experts.gate_up_proj", Whole: joint, Shape: []int{16, 32}, Offset: 3 * 2 * 16 * 32}, e.Gate)
		require.Equal(t, Ref{Name: "model.layers.1.mlp.experts.gate_up_proj", Whole: joint, Shape: []int{16, 32}, Offset: 7 * 16 * 32}, e.Up)
		require.Equal(t, Ref{Name: "model.layers.1.mlp.experts.down_proj", Whole: []int{8, 32, 16}, Shape: []int{32, 16}, Offset: 3 * 32 * 16}, e.Down)
		require.Equal(t, "model.layers.1.mlp.gate.weight", c.Layers[1].Router.Name)
		require.NoError(t, c.Check(c.shapes(), everything...))
	}
	_, err := qwen3MoE.must(t).Catalogue(func(string) bool { return false })
	require.ErrorContains(t, err, "model.layers.0.mlp.experts.0.down_proj.weight")
}

// TestRolesShareAModel: the attention role and any split of the experts need
// every weight, and none of them twice.
func TestRolesShareAModel(t *testing.T) {
	c := catalogue(t, qwen3MoE.with(fields{"mlp_only_layers": []int{2}}), anything)
	var got []Ref
	for _, r := range []Role{
		{Part: AttentionPart},
		{Part: ExpertPart, Experts: [][]int{{0, 7, 3}, {1, 2, 4, 5, 6}, nil, {}}},
		{Part: ExpertPart, Experts: [][]int{{1, 2, 4, 5, 6}, {0, 7, 3}, nil, {7, 6, 5, 4, 3, 2, 1, 0}}},
	} {
		refs, err := c.Refs(r)
		require.NoError(t, err)
		got = append(got, refs...)
	}
	require.ElementsMatch(t, c.all(), got)
	attention, err := c.Refs(Role{})
	require.NoError(t, err)
	require.Contains(t, attention, c.Layers[2].Dense.Up)
	require.NotContains(t, attention, c.Layers[1].Experts[0].Up)
}

func TestRolesAreChecked(t *testing.T) {
	c := catalogue(t, qwen3MoE, anything)
	_, err := c.Refs(Role{Part: ExpertPart, Experts: [][]int{{8}}})
	require.ErrorContains(t, err, "layer 0 has no expert 8: it has 8")
	_, err = c.Refs(Role{Part: ExpertPart, Experts: [][]int{{1, 1}}})
	require.ErrorContains(t, err, "expert 1 of layer 0 is given twice")
	_, err = c.Refs(Role{Part: ExpertPart, Experts: slices.Repeat([][]int{{1}}, len(c.Layers)+1)})
	require.ErrorContains(t, err, fmt.Sprintf("there is no layer %d with experts", len(c.Layers)))
}

func TestRefElements(t *testing.T) {
	require.Equal(t, int64(24), Ref{Shape: []int{2, 3, 4}}.Elements())
	require.True(t, slices.Equal([]int{5}, whole("x", 5).Shape))
}

// TestNamesOfKindsToCome: what a Spec says beyond today's families has its tensors, in
// either layout, and another width of values changes the shapes of two projections.
func TestNamesOfKindsToCome(t *testing.T) {
	s := qwen3MoE.must(t)
	today := s.Hash()
	s.Attention.ValueDim, s.Attention.Sinks, s.Router.Bias, s.ExpertBias = 6, true, true, true
	require.NotEqual(t, today, s.Hash())
	wide := s.Attention
	wide.KVHeads, wide.HeadDim = 2, 16
	s.Layers[1].Attention = &wide
	c := s.catalogue(apartLayout)
	l := c.Layers[0]
	require.Equal(t, whole("model.layers.0.self_attn.v_proj.weight", 24, 32), l.V)
	require.Equal(t, whole("model.layers.0.self_attn.o_proj.weight", 32, 24), l.O)
	require.Equal(t, whole("model.layers.0.self_attn.sinks", 4), l.Sinks)
	require.Equal(t, whole("model.layers.0.mlp.gate.e_score_correction_bias", 8), l.RouterBias)
	require.Equal(t, whole("model.layers.0.mlp.experts.2.up_proj.bias", 16), l.Experts[2].UpBias)
	require.Equal(t, whole("model.layers.0.mlp.experts.2.down_proj.bias", 32), l.Experts[2].DownBias)
	require.Equal(t, []int{32, 32}, c.Layers[1].K.Shape, "a layer's own heads")
	require.Equal(t, []int{12, 32}, c.Layers[1].V.Shape)

	fused := s.catalogue(fusedLayout).Layers[0].Experts[2]
	require.Equal(t, Ref{Name: "model.layers.0.mlp.experts.gate_up_proj_bias", Whole: []int{8, 32}, Shape: []int{16}, Offset: 64}, fused.GateBias)
	require.Equal(t, int64(80), fused.UpBias.Offset)
	require.Equal(t, Ref{Name: "model.layers.0.mlp.experts.down_proj_bias", Whole: []int{8, 32}, Shape: []int{32}, Offset: 64}, fused.DownBias)

	names, err := s.WeightNames(Role{})
	require.NoError(t, err)
	require.Contains(t, names, l.Sinks.Name)
	require.Contains(t, names, l.RouterBias.Name)
	names, err = s.WeightNames(Role{Part: ExpertPart, Experts: [][]int{{2}}})
	require.NoError(t, err)
	require.Contains(t, names, l.Experts[2].GateBias.Name)
}
