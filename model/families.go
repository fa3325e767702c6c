package model

// The three functions below follow configuration_*.py and modeling_*.py of
// transformers 5.23.

func parseMixtral(o *object) *Spec {
	s := common(o, Mixtral, defaults{normEps: 1e-5, ropeTheta: 1e6, maxPositions: 131072, kvHeads: 8})
	s.Router.Normalize = true
	s.ExpertIntermediate = o.integer("intermediate_size", nil, 1, maxSize)
	o.must("attention_bias", "false")
	o.must("norm_topk_prob", "true")
	window := 0
	s.windows(o, o.integer("sliding_window", &window, 1, maxSize))
	return s
}

func parseQwen3MoE(o *object) *Spec {
	s := common(o, Qwen3MoE, defaults{normEps: 1e-6, ropeTheta: 1e4, maxPositions: 32768, kvHeads: 4})
	s.Attention.QKNorm = PerHead
	o.must("use_qk_norm", "true")
	s.biases(o)
	s.Router.Normalize = o.boolean("norm_topk_prob", false)
	s.ExpertIntermediate = o.integer("moe_intermediate_size", nil, 1, maxSize)
	o.must("shared_expert_intermediate_size", "0")
	s.qwenWindows(o)
	s.qwenDense(o)
	return s
}

// biases sets attention's four biases. qkv_bias is a name that some Qwen
// configurations carry and transformers does not read.
func (s *Spec) biases(o *object) {
	b := o.boolean("attention_bias", false)
	s.Attention.Bias = Biases{b, b, b, b}
	if o.boolean("qkv_bias", b) != b {
		o.fail("qkv_bias", "attention_bias is %v", b)
	}
}

// qwenWindows reads sliding_window, which counts only with use_sliding_window.
// Transformers 5 then windows every layer and does not read max_window_layers;
// older code of the Qwen family windows from that layer on.
func (s *Spec) qwenWindows(o *object) {
	use, def := o.boolean("use_sliding_window", false), 4096
	first := o.take("max_window_layers")
	if !use {
		o.take("sliding_window")
		s.windows(o, 0)
		return
	}
	if first != nil && string(first) != "0" {
		o.fail("max_window_layers", "with use_sliding_window, versions of transformers disagree on which layers have the window; 0 or none means all")
	}
	if raw, given := o.fields["sliding_window"]; given && string(raw) == "null" {
		def = 0
	}
	s.windows(o, o.integer("sliding_window", &def, 1, maxSize))
}

// qwenDense marks the layers without experts.
func (s *Spec) qwenDense(o *object) {
	one := 1
	step := o.integer("decoder_sparse_step", &one, 1, maxSize)
	for i := range s.Layers {
		s.Layers[i].Sparse = (i+1)%step == 0
	}
	for _, i := range o.integers("mlp_only_layers", 0, len(s.Layers)-1) {
		if i >= 0 && i < len(s.Layers) {
			s.Layers[i].Sparse = false
		}
	}
	if len(s.SparseLayers()) < len(s.Layers) {
		s.DenseIntermediate = o.integer("intermediate_size", nil, 1, maxSize)
	}
	o.take("intermediate_size")
}

func parseOLMoE(o *object) *Spec {
	s := common(o, OLMoE, defaults{normEps: 1e-5, ropeTheta: 1e4, maxPositions: 4096})
	s.Attention.QKNorm = WholeProjection
	s.biases(o)
	s.Attention.Clip = o.positive("clip_qkv", 0, largestNumber)
	s.Router.Normalize = o.boolean("norm_topk_prob", false)
	s.ExpertIntermediate = o.integer("intermediate_size", nil, 1, maxSize)
	if d := s.Hidden / s.Attention.Heads; s.Attention.HeadDim != d {
		o.fail("head_dim", "this family's heads are hidden_size / num_attention_heads = %d wide", d)
	}
	o.must("sliding_window", "null")
	s.windows(o, 0)
	return s
}
