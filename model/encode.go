package model

import (
	"encoding/json"
	"fmt"
)

// Config writes the config.json that ParseSpec reads as this Spec, in the style
// of transformers 5: a model that this project makes gets one. A Spec that its
// family cannot express is an error.
func (s *Spec) Config() ([]byte, error) {
	f, ok := families[s.Family]
	if !ok || len(s.Layers) == 0 {
		return nil, fmt.Errorf("write %s: the family %q with %d layers is not implemented", ConfigFile, s.Family,
			len(s.Layers))
	}
	text, err := json.MarshalIndent(s.config(f.class), "", "  ")
	if err != nil {
		return nil, fmt.Errorf("write %s: %w", ConfigFile, err)
	}
	back, err := ParseSpec(text)
	if err != nil {
		return nil, fmt.Errorf("write %s: %w", ConfigFile, err)
	}
	if back.Hash() != s.Hash() {
		return nil, fmt.Errorf("write %s: the family %s cannot express %+v; it would become %+v", ConfigFile, s.Family,
			*s, *back)
	}
	return append(text, '\n'), nil
}

// config is the fields of a config.json.
func (s *Spec) config(class string) map[string]any {
	c := map[string]any{
		"architectures":           []string{class},
		"model_type":              s.Family,
		"hidden_act":              "silu",
		"vocab_size":              s.Vocabulary,
		"hidden_size":             s.Hidden,
		"num_hidden_layers":       len(s.Layers),
		"rms_norm_eps":            s.NormEps,
		"tie_word_embeddings":     s.TiedHead,
		"max_position_embeddings": s.MaxPositions,
		"num_attention_heads":     s.Attention.Heads,
		"num_key_value_heads":     s.Attention.KVHeads,
		"head_dim":                s.Attention.HeadDim,
		"num_local_experts":       s.Router.Experts,
		"num_experts_per_tok":     s.Router.TopK,
		"norm_topk_prob":          s.Router.Normalize,
		"attention_bias":          s.Attention.Bias.Q,
		"bos_token_id":            idsJSON(s.BOS),
		"eos_token_id":            idsJSON(s.EOS),
		"rope_parameters":         s.Rope.config(),
	}
	if s.DType != "" {
		c["dtype"] = s.DType
	}
	s.familyConfig(c)
	return c
}

// familyConfig adds the fields whose names or meaning differ.
func (s *Spec) familyConfig(c map[string]any) {
	window := s.Layers[0].Window
	if s.Family != Qwen3MoE {
		c["intermediate_size"] = s.ExpertIntermediate
		if window > 0 {
			c["sliding_window"] = window
		}
		if s.Attention.Clip > 0 {
			c["clip_qkv"] = s.Attention.Clip
		}
		return
	}
	c["moe_intermediate_size"] = s.ExpertIntermediate
	if window > 0 {
		c["use_sliding_window"], c["sliding_window"] = true, window
	}
	dense := []int{}
	for i, l := range s.Layers {
		if !l.Sparse {
			dense = append(dense, i)
		}
	}
	c["mlp_only_layers"] = dense
	if len(dense) > 0 {
		c["intermediate_size"] = s.DenseIntermediate
	}
}

// idsJSON is null, an id, or a list of them.
func idsJSON(ids []int32) any {
	switch len(ids) {
	case 0:
		return nil
	case 1:
		return ids[0]
	}
	return ids
}

// config is the rule's rope_parameters.
func (r Rope) config() map[string]any {
	c := map[string]any{"rope_type": r.Type, "rope_theta": r.Theta}
	if r.OriginalPositions > 0 {
		c["original_max_position_embeddings"] = r.OriginalPositions
	}
	if r.Type == RopeYarn {
		c["truncate"] = r.Truncate
	}
	for name, x := range map[string]float64{
		"factor": r.Factor, "attention_factor": r.AttentionFactor, "mscale": r.MScale, "mscale_all_dim": r.MScaleAllDim,
		"beta_fast": r.BetaFast, "beta_slow": r.BetaSlow, "low_freq_factor": r.LowFreqFactor,
		"high_freq_factor": r.HighFreqFactor,
	} {
		if x != 0 {
			c[name] = x
		}
	}
	return c
}
