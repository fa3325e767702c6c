package model

import (
	"fmt"
	"maps"
	"slices"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
)

// grouped is a Mixtral of two heads for keys and values.
var grouped = mixtral.with(fields{"num_key_value_heads": 2})

// everything is all roles of models with eight experts.
var everything = []Role{{}, {Part: ExpertPart, Experts: slices.Repeat([][]int{{0, 1, 2, 3, 4, 5, 6, 7}}, 2)}}

// with adds tensors to a checkpoint's.
func withTensors(shapes map[string][]int, names ...string) map[string][]int {
	m := maps.Clone(shapes)
	for _, name := range names {
		m[name] = []int{4}
	}
	return m
}

func TestCheckFindsWhatIsMissing(t *testing.T) {
	c := catalogue(t, olmoe, anything)
	good := c.shapes()
	require.NoError(t, c.Check(good, everything...))
	require.ErrorContains(t, c.Check(withTensors(good, "model.norm.weight"), everything...), "model.norm.weight has shape [4], and the configuration says [32]")

	delete(good, "model.layers.1.mlp.gate.weight")
	require.EqualError(t, c.Check(good, everything...), "the checkpoint has no tensor model.layers.1.mlp.gate.weight, of shape [8 32]")
	require.NoError(t, c.Check(good, everything[1]), "an expert node needs no router")
	for e := range 7 {
		delete(good, fmt.Sprintf("model.layers.0.mlp.experts.%d.up_proj.weight", e))
	}
	delete(good, "model.layers.1.mlp.experts.7.down_proj.weight")
	require.NoError(t, c.Check(good, Role{Part: ExpertPart, Experts: [][]int{}}))
	var missing *MissingError
	require.ErrorAs(t, c.Check(good, everything...), &missing)
	require.Len(t, missing.Names, 9)
	require.ErrorContains(t, missing, "lacks 9 tensors that the configuration asks for: model.layers.1.mlp.gate.weight, model.layers.0.mlp.experts.0.up_proj.weight, ")
	require.ErrorContains(t, missing, "experts.6.up_proj.weight and 1 more")
}

// TestForeignTensorsAreRefused: each by its name, with the reason, in one error.
func TestForeignTensorsAreRefused(t *testing.T) {
	sparse := qwen3MoE.with(fields{"mlp_only_layers": []int{2}})
	for _, c := range []struct {
		f            fields
		name, reason string
		role         Part
	}{
		{sparse, "model.layers.4.input_layernorm.weight", "num_hidden_layers is 4", AttentionPart},
		{sparse, "model.layers.4.mlp.experts.0.up_proj.weight", "num_hidden_layers is 4", ExpertPart},
		{sparse, "model.layers.0.mlp.experts.8.gate_proj.weight", "the number of experts is 8", ExpertPart},
		{sparse, "model.layers.2.mlp.experts.0.gate_proj.weight", "the layer has no experts (decoder_sparse_step, mlp_only_layers)", ExpertPart},
		{sparse, "model.layers.0.mlp.experts.1.gate_proj.bias", "this family has no such bias", ExpertPart},
		{sparse, "model.layers.0.mlp.experts.1.gate_proj.weight_scale_inv", "quantised checkpoints are not implemented", ExpertPart},
		{sparse, "model.layers.0.mlp.experts.gate_up_proj", "the experts are under other names too", ExpertPart},
		{sparse, "model.layers.0.self_attn.q_proj.bias", "attention_bias is false", AttentionPart},
		{sparse, "model.layers.0.mlp.gate.bias", "this family has no such bias", AttentionPart},
		{sparse, "model.layers.0.mlp.gate.e_score_correction_bias", "no part of such a layer", AttentionPart},
		{sparse, "model.layers.0.mlp.shared_expert.up_proj.weight", "this family has no shared experts", AttentionPart},
		{sparse, "model.layers.0.mlp.shared_expert_gate.weight", "this family has no shared experts", AttentionPart},
		{sparse, "model.layers.0.mlp.up_proj.weight", "no part of such a layer", AttentionPart},
		{sparse, "model.layers.0.pre_feedforward_layernorm.weight", "this family has no such norm", AttentionPart},
		{sparse, "model.layers.x.input_layernorm.weight", "no layer's number", AttentionPart},
		{sparse, "model.layers.99999999999999999999.input_layernorm.weight", "no layer's number", AttentionPart},
		{sparse, "model.norm.bias", "no part of this family", AttentionPart},
		{sparse, "lm_head.bias", "no part of this family", AttentionPart},
		{grouped, "model.layers.0.self_attn.q_norm.weight", "this family has no such norm", AttentionPart},
	} {
		cat := catalogue(t, c.f, anything)
		err := cat.Check(withTensors(cat.shapes(), c.name), everything...)
		var foreign *ForeignError
		require.ErrorAs(t, err, &foreign, c.name)
		require.Equal(t, &ForeignError{Names: []string{c.name}, Reasons: []string{c.reason}}, foreign)
		require.ErrorContains(t, err, c.name+" ("+c.reason+")")
		require.Error(t, cat.Foreign(withTensors(map[string][]int{}, c.name), Role{Part: c.role}))
		require.NoError(t, cat.Foreign(withTensors(map[string][]int{}, c.name), Role{Part: 1 - c.role}), "it concerns one role: %s", c.name)
	}
	cat := catalogue(t, sparse, anything)
	var many []string
	for i := range 20 {
		many = append(many, fmt.Sprintf("model.layers.%d.input_layernorm.weight", 10+i))
	}
	err := cat.Check(withTensors(cat.shapes(), many...), everything...)
	require.ErrorContains(t, err, "model.layers.17.input_layernorm.weight (num_hidden_layers is 4) and 12 more")
	require.Less(t, len(err.Error()), 1000)
}

// TestUnknownTensorsAreTold, where no name says that they belong to the model; what
// follows from the configuration is not worth a word.
func TestUnknownTensorsAreTold(t *testing.T) {
	c := catalogue(t, qwen3MoE.with(fields{"tie_word_embeddings": true}), anything)
	shapes := withTensors(c.shapes(), "value_head.weight", "adapter.0", "lm_head.weight", "model.layers.0.self_attn.rotary_emb.inv_freq", "model.layers.9.self_attn.rotary_emb.inv_freq", "model.rotary_emb.cos_cached")
	require.NoError(t, c.Check(shapes, everything...))
	require.Equal(t, []string{"adapter.0", "value_head.weight"}, c.Unknown(shapes))
}

// TestLayoutIsFoundByAnyTensor: a node's folder need not hold the first expert.
func TestLayoutIsFoundByAnyTensor(t *testing.T) {
	for name, want := range map[string]string{
		"model.layers.2.block_sparse_moe.experts.7.w2.weight": "model.layers.0.block_sparse_moe.experts.0.w2.weight",
		"model.layers.1.block_sparse_moe.gate.weight":         "model.layers.0.block_sparse_moe.experts.0.w2.weight",
		"model.layers.1.mlp.experts.down_proj":                "model.layers.0.mlp.experts.down_proj",
		"model.layers.1.mlp.gate.weight":                      "model.layers.0.mlp.experts.down_proj",
	} {
		c := catalogue(t, grouped, func(n string) bool { return n == name })
		require.Equal(t, want, c.Layers[0].Experts[0].Down.Name)
	}
}

// TestWeightNames are the same for all layouts and ways to tie, as many as a
// catalogue's weights.
func TestWeightNames(t *testing.T) {
	fused := func(name string) bool { return strings.HasSuffix(name, ".mlp.experts.down_proj") }
	for _, f := range []fields{grouped, qwen3MoE, qwen3MoE.with(fields{"tie_word_embeddings": true}), olmoe} {
		for _, has := range []func(string) bool{anything, fused} {
			c := catalogue(t, f, has)
			for _, r := range everything {
				names, err := c.spec.WeightNames(r)
				require.NoError(t, err)
				for range 2 {
					refs, err := c.Weights(r)
					require.NoError(t, err)
					require.Len(t, names, len(refs))
					for i, ref := range refs {
						if ref.Name != c.Embedding.Name && strings.HasSuffix(ref.Name, ".weight") {
							require.Equal(t, ref.Name, strings.ReplaceAll(names[i], "block_sparse_moe.gate", blockOf(ref.Name)+".gate"))
						}
					}
					c.Untie()
				}
				require.Equal(t, r.Part == AttentionPart, names[headPlace] == headName)
				seen := map[string]bool{}
				for _, n := range names {
					require.False(t, seen[n], n)
					seen[n] = true
				}
			}
		}
	}
}

func blockOf(name string) string {
	if strings.Contains(name, ".mlp.gate") {
		return "mlp"
	}
	return "block_sparse_moe"
}

// FuzzForeign: no name panics, and each is judged by one role, or told, or known.
func FuzzForeign(f *testing.F) {
	c, err := qwen3MoE.must(f).Catalogue(anything)
	require.NoError(f, err)
	for _, name := range []string{"model.layers.0.mlp.experts.9.up_proj.weight", "model.layers.-1.x", "model.layers.", "lm_head.weight", "x", "model.layers.0.self_attn.rotary_emb.inv_freq"} {
		f.Add(name)
	}
	f.Fuzz(func(t *testing.T, name string) {
		shapes := map[string][]int{name: {1}}
		attention, expert := c.Foreign(shapes, everything[0]) != nil, c.Foreign(shapes, everything[1]) != nil
		told := len(c.Unknown(shapes)) == 1
		require.False(t, attention && expert)
		require.False(t, told && (attention || expert))
		require.Equal(t, !attention && !expert && !told, c.names()[name] || followsFromConfig(name))
	})
}
