package model

import (
	"slices"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
)

// TestRefusals: what is not implemented, or contradicts itself, is named with
// its value.
func TestRefusals(t *testing.T) {
	q, m, o := qwen3MoE, mixtral.with(fields{"num_key_value_heads": 4}), olmoe
	rope := func(f fields) fields { return fields{"rope_parameters": f} }
	for _, c := range []struct {
		base, change fields
		want         string // in the message
	}{
		{q, fields{"model_type": "dbrx"}, `model_type = "dbrx": this family is not implemented (mixtral, olmoe, qwen3_moe are)`},
		{q, fields{"model_type": missing}, `model_type: is missing`},
		{q, fields{"architectures": []string{"Qwen3MoeForSequenceClassification"}}, `only Qwen3MoeForCausalLM`},
		{q, fields{"quantization_config": fields{"quant_method": "fp8"}},
			`quantization_config = {"quant_method":"fp8"}: quantised checkpoints are not implemented`},
		{q, fields{"partial_rotary_factor": 0.5}, `partial_rotary_factor = 0.5: only 1`},
		{q, rope(fields{"partial_rotary_factor": 0.5}), `rope_parameters.partial_rotary_factor = 0.5: only 1`},
		{q, fields{"hidden_act": "gelu"}, `hidden_act = "gelu": only silu`},
		{q, fields{"embedding_multiplier": 12.0}, `embedding_multiplier = 12: this field is not known here`},
		{q, fields{"n_shared_experts": 0}, `n_shared_experts = 0: this field is not known here`},
		{q, fields{"shared_expert_intermediate_size": 64}, `shared_expert_intermediate_size = 64: this family is implemented with 0 only`},
		{q, fields{"use_qk_norm": false}, `use_qk_norm = false`},
		{q, fields{"qkv_bias": true}, `qkv_bias = true: attention_bias is false`},
		{m, fields{"attention_bias": true}, `attention_bias = true`},
		{m, fields{"norm_topk_prob": false}, `norm_topk_prob = false`},
		{m, fields{"sliding_window": 0}, `sliding_window = 0: is not from 1`},
		{m, fields{"clip_qkv": 8}, `clip_qkv = 8: this field is not known`},
		{o, fields{"sliding_window": 16}, `sliding_window = 16`},
		{o, fields{"clip_qkv": 0}, `clip_qkv = 0: is not above 0`},
		{o, fields{"head_dim": 16}, `head_dim = 16: this family's heads are hidden_size / num_attention_heads = 8 wide`},
		{q, fields{"use_sliding_window": true, "max_window_layers": 2},
			`max_window_layers = 2: with use_sliding_window, versions of transformers disagree`},
		{q, fields{"layer_types": []string{"full_attention", "sliding_attention", "full_attention", "full_attention"}},
			`layer 1 has "sliding_attention"`},
		{q, fields{"layer_types": []string{"full_attention"}}, `layer_types = ["full_attention"]: is not a list of 4`},

		{q, fields{"hidden_size": missing}, `hidden_size: is missing`},
		{q, fields{"hidden_size": 32.5}, `hidden_size = 32.5: is not a whole number`},
		{q, fields{"hidden_size": 1 << 40}, `hidden_size = 1099511627776: is not from 1 to 16777216`},
		{q, fields{"num_hidden_layers": 0}, `num_hidden_layers = 0`},
		{q, fields{"num_hidden_layers": 100000}, `num_hidden_layers = 100000: is not from 1 to 1024`},
		{q, fields{"num_key_value_heads": 3}, `num_attention_heads = 4 is not a multiple of num_key_value_heads = 3`},
		{q, fields{"num_attention_heads": 5, "num_key_value_heads": 5}, `does not divide hidden_size = 32`},
		{q, fields{"head_dim": 7}, `head_dim = 7 is odd`},
		{q, fields{"num_experts_per_tok": 9}, `num_experts_per_tok = 9 is more than the 8 experts`},
		{q, fields{"num_hidden_layers": 1024, "num_experts": 4096},
			`1024 layers of 4096 experts are more than the limit of 131072 experts`},
		{q, fields{"num_local_experts": 4}, `num_local_experts = 4: num_experts is 8`},
		{q, fields{"mlp_only_layers": []int{0, 1, 2, 3}}, `leave no layer with experts`},
		{q, fields{"mlp_only_layers": []int{4}}, `mlp_only_layers = [4]: 4 is not from 0 to 3`},
		{q, fields{"mlp_only_layers": []int{0}, "intermediate_size": missing}, `intermediate_size: is missing`},
		{q, fields{"rms_norm_eps": 0}, `rms_norm_eps = 0`},
		{q, fields{"tie_word_embeddings": "yes"}, `tie_word_embeddings = "yes": is not true or false`},
		{q, fields{"eos_token_id": []int{1, 100}}, `eos_token_id = [1,100]: 100 is not in the vocabulary of 100`},
		{q, fields{"eos_token_id": "end"}, `eos_token_id = "end": is not a token id`},

		{q, rope(fields{"rope_type": "longrope"}), `rope_parameters.rope_type = "longrope": this rope type is not implemented`},
		{q, fields{"rope_scaling": []int{1}}, `rope_scaling = [1]: is not a JSON object`},
		{q, fields{"rope_scaling": fields{"type": "su"}}, `rope_scaling.type = "su": this rope type`},
		{q, fields{"rope_scaling": fields{"type": "linear", "rope_type": "yarn"}},
			`rope_scaling.type = "linear": rope_type is "yarn"`},
		{q, fields{"rope_scaling": fields{"type": "linear", "factor": 2},
			"rope_parameters": fields{"rope_type": "default"}}, `rope_scaling`},
		{q, fields{"rope_theta": 1e4, "rope_parameters": fields{"rope_theta": 1e6}},
			`rope_parameters.rope_theta = 1000000: rope_theta outside is 10000`},
		{q, fields{"rope_theta": 1}, `rope_theta = 1: is not above 1`},
		{q, rope(fields{"rope_type": "linear"}), `rope_parameters.factor: is missing`},
		{q, rope(fields{"rope_type": "linear", "factor": 0.5}), `rope_parameters.factor = 0.5: is not from 1`},
		{q, rope(fields{"rope_type": "default", "factor": 4}), `rope_parameters.factor = 4: this field is not known`},
		{q, rope(fields{"full_attention": fields{"rope_type": "default"}}), `rope_parameters.full_attention`},
		{q, rope(fields{"rope_type": "llama3", "factor": 8, "high_freq_factor": 4}), `low_freq_factor: is missing`},
		{q, rope(fields{"rope_type": "llama3", "factor": 8, "low_freq_factor": 4, "high_freq_factor": 4}),
			`high_freq_factor = 4: is not above low_freq_factor`},
		{q, rope(fields{"rope_type": "yarn", "factor": 2, "beta_fast": 1, "beta_slow": 2}),
			`beta_fast = 1: is below beta_slow`},
		{q, rope(fields{"rope_type": "yarn", "factor": 2, "attention_factor": 0}), `attention_factor = 0`},
		{q, rope(fields{"rope_type": "yarn", "factor": 1e9, "original_max_position_embeddings": 4096}),
			`factor = 1000000000: times the original length of 4096 is above the limit`},
		{q, rope(fields{"rope_type": "yarn", "factor": nil, "original_max_position_embeddings": 65536}),
			`is above max_position_embeddings = 32768`},
		{q, rope(fields{"rope_type": "yarn", "factor": 2,
			"original_max_position_embeddings": 64}).with(fields{"original_max_position_embeddings": 32}),
			`outside is 32`},
	} {
		_, err := c.base.with(c.change).parse(t)
		require.ErrorContains(t, err, c.want)
		require.ErrorContains(t, err, ConfigFile)
	}
}

func TestBrokenJSON(t *testing.T) {
	for text, want := range map[string]string{
		``:                          "is not a JSON object",
		`[]`:                        "is not a JSON object",
		`{"model_type": "mixtral"`:  "config.json is not valid JSON (at byte 24): unexpected end of JSON input",
		`{"a": 1, "a": 2}`:          "config.json: a: is given twice (at byte 14)",
		`{"x": [{"a": 1, "a": 2}]}`: "config.json: x[0].a: is given twice (at byte 21)",
		`{"a": "\ud800"}`:           `config.json: a: has half a surrogate pair, \ud800`,
		`{"a": 1} {}`:               "invalid character '{' after top-level value",
		`{"a": }`:                   "invalid character '}' looking for beginning of value",
	} {
		_, err := ParseSpec([]byte(text))
		require.ErrorContains(t, err, want, "%s", text)
	}
}

func TestFieldErrorIsShort(t *testing.T) {
	_, err := qwen3MoE.with(fields{"secret": strings.Repeat("é", 500)}).parse(t)
	var field *FieldError
	require.ErrorAs(t, err, &field)
	require.Equal(t, "secret", field.Field)
	require.Less(t, len(err.Error()), 250)
	_, err = qwen3MoE.with(fields{strings.Repeat("é", 5000): 1}).parse(t)
	require.Less(t, len(err.Error()), 250)
}

func TestManyFaultsCostNoMoreThanOne(t *testing.T) {
	_, err := qwen3MoE.with(fields{"eos_token_id": make([]int, 200_000),
		"mlp_only_layers": slices.Repeat([]int{9}, 200_000)}).parse(t)
	require.ErrorContains(t, err, "mlp_only_layers")
	require.Less(t, len(err.Error()), 250)
}

// TestHarmlessFieldsChangeNothing: what the list admits leaves the hash alone.
func TestHarmlessFieldsChangeNothing(t *testing.T) {
	want := mixtral.with(fields{"num_key_value_heads": 4}).must(t)
	for _, name := range harmless {
		s := mixtral.with(fields{"num_key_value_heads": 4, name: 3}).must(t)
		require.Equal(t, want.Hash(), s.Hash(), name)
	}
}

func TestRopeRules(t *testing.T) {
	rope := func(f fields) Rope {
		return qwen3MoE.with(fields{"max_position_embeddings": 4096, "rope_parameters": f}).must(t).Rope
	}
	require.Equal(t, Rope{Type: RopeYarn, Theta: 1e4, Dim: 8, Factor: 4, OriginalPositions: 1024, BetaFast: 32,
		BetaSlow: 1, Truncate: true},
		rope(fields{"rope_type": "yarn", "factor": nil, "original_max_position_embeddings": 1024, "beta_fast": nil,
			"beta_slow": 0}))
	require.Equal(t, Rope{Type: RopeLlama3, Theta: 1e4, Dim: 8, Factor: 8, OriginalPositions: 4096, LowFreqFactor: 1,
		HighFreqFactor: 4},
		rope(fields{"rope_type": "llama3", "factor": 8, "low_freq_factor": 1, "high_freq_factor": 4}))
	require.Equal(t, Rope{Type: RopeLinear, Theta: 1e4, Dim: 8, Factor: 2}, rope(fields{"type": "linear", "factor": 2}))
	outer := qwen3MoE.with(fields{"original_max_position_embeddings": 512,
		"rope_parameters": fields{"rope_type": "yarn", "factor": 2}})
	require.Equal(t, 512, outer.must(t).Rope.OriginalPositions)
}

// TestYarnsLengthIsOriginalTimesFactor, whatever max_position_embeddings is: in
// Qwen3's own recipe it stays as it was.
func TestYarnsLengthIsOriginalTimesFactor(t *testing.T) {
	for _, c := range []struct {
		max      int
		original any
		factor   any
		want     int
	}{
		{40960, 32768, 4.0, 131072},
		{131072, 32768, 4.0, 131072},
		{40960, 32768, nil, 40960},
		{999, 7, nil, 999},
		{4096, nil, 2, 8192},
		{100, 10, 1.55, 15},
	} {
		scaling := fields{"rope_type": "yarn", "factor": c.factor, "original_max_position_embeddings": c.original}
		s := qwen3MoE.with(fields{"max_position_embeddings": c.max, "rope_scaling": scaling}).must(t)
		require.Equal(t, c.want, s.MaxPositions, "%v", c)
	}
}

func TestDynamicRopeEndsWhereItWouldChange(t *testing.T) {
	s := qwen3MoE.with(fields{"max_position_embeddings": 4096,
		"rope_scaling": fields{"type": "dynamic", "factor": 2}}).must(t)
	require.Equal(t, 4096, s.MaxPositions)
	s = qwen3MoE.with(fields{"max_position_embeddings": 4096,
		"rope_scaling": fields{"type": "dynamic", "factor": 2, "original_max_position_embeddings": 2048}}).must(t)
	require.Equal(t, 2048, s.MaxPositions)
}
