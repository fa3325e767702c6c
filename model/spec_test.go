package model

import (
	"encoding/json"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"testing"

	"github.com/stretchr/testify/require"
)

// fields is a config.json to be changed by tests.
type fields map[string]any

func (f fields) with(changes fields) fields {
	f = maps.Clone(f)
	for name, value := range changes {
		if value == missing {
			delete(f, name)
			continue
		}
		f[name] = value
	}
	return f
}

// missing, as a value, takes a field away.
const missing = "\x00missing"

func (f fields) parse(t testing.TB) (*Spec, error) {
	t.Helper()
	text, err := json.Marshal(f)
	require.NoError(t, err)
	return ParseSpec(text)
}

func (f fields) must(t testing.TB) *Spec {
	t.Helper()
	s, err := f.parse(t)
	require.NoError(t, err)
	return s
}

// Small configurations with nothing that has a default.
var (
	mixtral = fields{
		"model_type": "mixtral", "vocab_size": 100, "hidden_size": 32, "num_hidden_layers": 3, "num_attention_heads": 4,
		"num_local_experts": 8, "num_experts_per_tok": 2, "intermediate_size": 48,
	}
	qwen3MoE = fields{
		"model_type": "qwen3_moe", "vocab_size": 100, "hidden_size": 32, "num_hidden_layers": 4,
		"num_attention_heads": 4,
		"num_experts":         8, "num_experts_per_tok": 2, "moe_intermediate_size": 16, "intermediate_size": 40,
	}
	olmoe = fields{
		"model_type": "olmoe", "vocab_size": 100, "hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4,
		"num_experts": 8, "num_experts_per_tok": 2, "intermediate_size": 16,
	}
)

// TestDefaultsAreTransformers holds what a configuration that says no more than
// it must means.
func TestDefaultsAreTransformers(t *testing.T) {
	sparse := Layer{Sparse: true}
	require.Equal(t, &Spec{
		Family: Mixtral, Vocabulary: 100, Hidden: 32, NormEps: 1e-5, MaxPositions: 131072,
		Attention: Attention{Heads: 4, KVHeads: 4, HeadDim: 8},
		Rope:      Rope{Type: RopeDefault, Theta: 1e6, Dim: 8},
		Router:    Router{Experts: 8, TopK: 2, Normalize: true}, ExpertIntermediate: 48,
		Layers: []Layer{sparse, sparse, sparse},
	}, mixtral.with(fields{"num_key_value_heads": nil}).must(t))
	require.Equal(t, &Spec{
		Family: Qwen3MoE, Vocabulary: 100, Hidden: 32, NormEps: 1e-6, MaxPositions: 32768,
		Attention: Attention{Heads: 4, KVHeads: 4, HeadDim: 8, QKNorm: PerHead},
		Rope:      Rope{Type: RopeDefault, Theta: 1e4, Dim: 8},
		Router:    Router{Experts: 8, TopK: 2}, ExpertIntermediate: 16,
		Layers: []Layer{sparse, sparse, sparse, sparse},
	}, qwen3MoE.must(t))
	require.Equal(t, &Spec{
		Family: OLMoE, Vocabulary: 100, Hidden: 32, NormEps: 1e-5, MaxPositions: 4096,
		Attention: Attention{Heads: 4, KVHeads: 4, HeadDim: 8, QKNorm: WholeProjection},
		Rope:      Rope{Type: RopeDefault, Theta: 1e4, Dim: 8},
		Router:    Router{Experts: 8, TopK: 2}, ExpertIntermediate: 16,
		Layers: []Layer{sparse, sparse},
	}, olmoe.must(t))
	require.Equal(t, 8, mixtral.with(fields{"num_attention_heads": 16}).must(t).Attention.KVHeads)
}

// TestPublishedConfigurations reads configurations with the fields that
// published checkpoints of these families carry.
func TestPublishedConfigurations(t *testing.T) {
	files, err := filepath.Glob("testdata/config/*.json")
	require.NoError(t, err)
	require.NotEmpty(t, files)
	for _, file := range files {
		t.Run(filepath.Base(file), func(t *testing.T) {
			text, err := os.ReadFile(file)
			require.NoError(t, err)
			s, err := ParseSpec(text)
			require.NoError(t, err)
			require.Len(t, s.SparseLayers(), len(s.Layers))
			require.Equal(t, "bfloat16", s.DType)
			require.NotEmpty(t, s.EOS)
		})
	}
}

// TestStylesAgree reads one model in the style of transformers 4 and of 5.
func TestStylesAgree(t *testing.T) {
	old := qwen3MoE.with(fields{
		"torch_dtype": "bfloat16", "rope_theta": 5e5, "max_position_embeddings": 4096,
		"rope_scaling": fields{"type": "yarn", "factor": 4, "original_max_position_embeddings": 1024},
	}).must(t)
	now := qwen3MoE.with(fields{
		"dtype": "float16", "num_experts": missing, "num_local_experts": 8, "max_position_embeddings": 4096,
		"rope_parameters": fields{"rope_type": "yarn", "factor": 4.0, "original_max_position_embeddings": 1024,
			"rope_theta": 500000},
	}).must(t)
	require.Equal(t, old.Hash(), now.Hash())
	require.Equal(t, "bfloat16", old.DType)
	require.Equal(t, old.Rope, now.Rope)
}

func TestHashTellsModelsApart(t *testing.T) {
	base := qwen3MoE.must(t).Hash()
	require.Equal(t, base, qwen3MoE.with(fields{"torch_dtype": "float16", "attention_dropout": 0.5,
		"eos_token_id": []int{}}).must(t).Hash())
	for _, change := range []fields{
		{"vocab_size": 101}, {"rms_norm_eps": 1e-5}, {"rope_theta": 20000}, {"norm_topk_prob": true},
		{"mlp_only_layers": []int{0}},
		{"tie_word_embeddings": true}, {"attention_bias": true}, {"use_sliding_window": true}, {"eos_token_id": 3},
	} {
		require.NotEqual(t, base, qwen3MoE.with(change).must(t).Hash(), "%v", change)
	}
}

func TestConfigReadsBack(t *testing.T) {
	for name, f := range map[string]fields{
		"mixtral": mixtral.with(fields{"num_key_value_heads": 2, "sliding_window": 7, "bos_token_id": 1,
			"torch_dtype": "float32"}),
		"qwen3": qwen3MoE.with(fields{"mlp_only_layers": []int{0, 3}, "attention_bias": true,
			"use_sliding_window": true,
			"eos_token_id":       []int{5, 6}, "rope_scaling": fields{"rope_type": "llama3", "factor": 8,
				"low_freq_factor": 1, "high_freq_factor": 4}}),
		"olmoe": olmoe.with(fields{"clip_qkv": 2.5, "norm_topk_prob": true, "rope_parameters": fields{
			"rope_type": "yarn", "factor": 2, "mscale": 0.7, "mscale_all_dim": 1, "truncate": false, "beta_fast": 16}}),
	} {
		t.Run(name, func(t *testing.T) {
			s := f.must(t)
			text, err := s.Config()
			require.NoError(t, err)
			again, err := ParseSpec(text)
			require.NoError(t, err)
			require.Equal(t, s, again)
		})
	}
}

func TestConfigRefusesWhatAFamilyCannotSay(t *testing.T) {
	_, err := (&Spec{Family: "dbrx"}).Config()
	require.ErrorContains(t, err, "dbrx")
	s := olmoe.must(t)
	s.Layers[1].Window = 9
	_, err = s.Config()
	require.ErrorContains(t, err, "the family olmoe cannot express")
	s = qwen3MoE.must(t)
	s.Router.TopK = 99
	_, err = s.Config()
	require.ErrorContains(t, err, "num_experts_per_tok")
}

func TestDenseLayers(t *testing.T) {
	sparse := func(f fields) []int { return qwen3MoE.with(f).must(t).SparseLayers() }
	require.Equal(t, []int{1, 3}, sparse(fields{"decoder_sparse_step": 2}))
	require.Equal(t, []int{3}, sparse(fields{"decoder_sparse_step": 2, "mlp_only_layers": []int{1}}))
	require.Equal(t, []int{1, 2, 3}, sparse(fields{"mlp_only_layers": []int{0}}))
	require.Equal(t, 40, qwen3MoE.with(fields{"mlp_only_layers": []int{0}}).must(t).DenseIntermediate)
}

func TestWindows(t *testing.T) {
	window := func(f fields) int {
		s := f.must(t)
		require.Len(t, slices.Compact(slices.Clone(s.Layers)), 1, "one window for all")
		return s.Layers[0].Window
	}
	require.Equal(t, 24, window(mixtral.with(fields{"num_key_value_heads": 4, "sliding_window": 24,
		"layer_types": []string{"sliding_attention", "sliding_attention", "sliding_attention"}})))
	require.Equal(t, 0, window(qwen3MoE.with(fields{"sliding_window": 24, "max_window_layers": 2})))
	require.Equal(t, 24, window(qwen3MoE.with(fields{"sliding_window": 24, "use_sliding_window": true,
		"max_window_layers": 0})))
	require.Equal(t, 4096, window(qwen3MoE.with(fields{"use_sliding_window": true})))
	require.Equal(t, 0, window(qwen3MoE.with(fields{"use_sliding_window": true, "sliding_window": nil})))
}

func TestEndIDs(t *testing.T) {
	require.Equal(t, []int32{7}, olmoe.with(fields{"eos_token_id": 7}).must(t).EOS)
	require.Equal(t, []int32{7, 9}, olmoe.with(fields{"eos_token_id": []int{7, 9}}).must(t).EOS)
	require.Empty(t, olmoe.with(fields{"eos_token_id": nil}).must(t).EOS)
}

func TestHeadDim(t *testing.T) {
	require.Equal(t, 8, qwen3MoE.with(fields{"head_dim": nil}).must(t).Attention.HeadDim)
	s := qwen3MoE.with(fields{"head_dim": 12}).must(t)
	require.Equal(t, 12, s.Attention.HeadDim)
	require.Equal(t, 12, s.Rope.Dim)
}
