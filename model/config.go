package model

import (
	"encoding/json"
	"fmt"
	"io/fs"
	"slices"
	"strings"

	"github.com/tandem-moe/tandem/internal/bounded"
)

// ConfigFile is the file that a Spec is read from.
const ConfigFile = "config.json"

const (
	// maxConfigBytes bounds what is read of a configuration file.
	maxConfigBytes = 1 << 20
	// maxSize bounds a dimension, so that products of three fit in 64 bits.
	maxSize = 1 << 24
	// maxLayers and maxExperts bound lists.
	maxLayers  = 1 << 10
	maxExperts = 1 << 12
	// maxAllExperts bounds the experts of all layers: a catalogue names each one's
	// matrices before the checkpoint is looked at. The largest published models have
	// some 25,000.
	maxAllExperts = 1 << 17
)

// ReadSpec reads config.json at the root of fsys.
func ReadSpec(fsys fs.FS) (*Spec, error) {
	data, err := bounded.ReadFile(fsys, ConfigFile, maxConfigBytes)
	if err != nil {
		return nil, fmt.Errorf("read the model's configuration: %w", err)
	}
	return ParseSpec(data)
}

// ParseSpec reads the text of a config.json, in the style of transformers 4
// (rope_theta, rope_scaling, torch_dtype) or 5 (rope_parameters, dtype), and
// checks it. A missing field has the default of transformers' configuration
// class; sizes have none. Errors name the field and its value (*FieldError).
func ParseSpec(data []byte) (*Spec, error) {
	var err error
	o := parseObject(ConfigFile, data, &err)
	if err != nil {
		return nil, err
	}
	if !o.has("model_type") {
		return nil, o.problem("model_type", "is missing")
	}
	f, ok := families[Family(o.text("model_type", ""))]
	if !ok {
		return nil, o.problem("model_type", "this family is not implemented (%s are)",
			strings.Join(familyNames(), ", "))
	}
	s := f.parse(&o)
	o.architecture(f.class)
	o.refuseLeft()
	if err == nil {
		err = s.check()
	}
	if err != nil {
		return nil, err
	}
	return s, nil
}

// check holds what no single field can say.
func (s *Spec) check() error {
	a, r := s.Attention, s.Router
	switch {
	case a.Heads%a.KVHeads != 0:
		return fmt.Errorf("%s: num_attention_heads = %d is not a multiple of num_key_value_heads = %d", ConfigFile, a.Heads, a.KVHeads)
	case a.HeadDim%2 != 0:
		return fmt.Errorf("%s: head_dim = %d is odd, and RoPE rotates pairs", ConfigFile, a.HeadDim)
	case r.TopK > r.Experts:
		return fmt.Errorf("%s: num_experts_per_tok = %d is more than the %d experts", ConfigFile, r.TopK, r.Experts)
	case r.Experts*len(s.Layers) > maxAllExperts:
		return fmt.Errorf("%s: %d layers of %d experts are more than the limit of %d experts", ConfigFile,
			len(s.Layers), r.Experts, maxAllExperts)
	case len(s.SparseLayers()) == 0:
		return fmt.Errorf("%s: mlp_only_layers and decoder_sparse_step leave no layer with experts", ConfigFile)
	}
	return nil
}

// family is what differs between architectures while a configuration is read.
type family struct {
	// class is the name in "architectures" of the whole model with its head.
	class string
	// parse reads the fields.
	parse func(o *object) *Spec
	// names are the names of its tensors.
	names names
}

var families = map[Family]family{
	Mixtral:  {"MixtralForCausalLM", parseMixtral, mixtralNames},
	Qwen3MoE: {"Qwen3MoeForCausalLM", parseQwen3MoE, qwenNames},
	OLMoE:    {"OlmoeForCausalLM", parseOLMoE, qwenNames},
}

func familyNames() []string {
	var list []string
	for f := range families {
		list = append(list, string(f))
	}
	slices.Sort(list)
	return list
}

// defaults are those of a family's configuration class in transformers.
type defaults struct {
	normEps, ropeTheta float64
	maxPositions       int
	// kvHeads is the default of num_key_value_heads where the field is missing;
	// 0 and an explicit null mean one per query head.
	kvHeads int
}

// common reads the fields that the three families share.
func common(o *object, fam Family, d defaults) *Spec {
	s := &Spec{
		Family:       fam,
		Vocabulary:   o.integer("vocab_size", nil, 1, maxSize),
		Hidden:       o.integer("hidden_size", nil, 1, maxSize),
		NormEps:      o.positive("rms_norm_eps", d.normEps, 1),
		TiedHead:     o.boolean("tie_word_embeddings", false),
		MaxPositions: o.integer("max_position_embeddings", &d.maxPositions, 1, maxSize),
		Attention:    heads(o, d),
		Router: Router{
			Experts: experts(o),
			TopK:    o.integer("num_experts_per_tok", nil, 1, maxExperts),
		},
		Layers: make([]Layer, o.integer("num_hidden_layers", nil, 1, maxLayers)),
		DType:  o.text("torch_dtype", o.text("dtype", "")),
	}
	s.BOS, s.EOS = o.ids("bos_token_id", s.Vocabulary), o.ids("eos_token_id", s.Vocabulary)
	s.Attention.HeadDim = headDim(o, s.Hidden, s.Attention.Heads)
	s.Rope, s.MaxPositions = parseRope(o, s.Attention.HeadDim, s.MaxPositions, d.ropeTheta)
	for i := range s.Layers {
		s.Layers[i].Sparse = true
	}
	if act := o.text("hidden_act", "silu"); act != "silu" {
		o.fail("hidden_act", "only silu is implemented")
	}
	return s
}

func heads(o *object, d defaults) Attention {
	n := o.integer("num_attention_heads", nil, 1, maxSize)
	kv := n
	if _, given := o.fields["num_key_value_heads"]; !given && d.kvHeads > 0 {
		kv = d.kvHeads
	}
	return Attention{Heads: n, KVHeads: o.integer("num_key_value_heads", &kv, 1, maxSize)}
}

// headDim reads head_dim; missing or null, it is the share of the hidden size.
func headDim(o *object, hidden, heads int) int {
	if !o.has("head_dim") && hidden%heads != 0 {
		o.fail("num_attention_heads", "does not divide hidden_size = %d, and head_dim is not given", hidden)
	}
	share := max(hidden/heads, 1)
	return o.integer("head_dim", &share, 1, maxSize)
}

// experts reads the number of experts, under either of its names.
func experts(o *object) int {
	name, other := "num_experts", "num_local_experts"
	if !o.has(name) {
		name, other = other, name
	}
	n := o.integer(name, nil, 1, maxExperts)
	if m := o.integer(other, &n, 1, maxExperts); m != n {
		o.fail(other, "%s is %d", name, n)
	}
	return n
}

// architecture refuses a checkpoint of the family that has another head.
func (o *object) architecture(class string) {
	raw := o.take("architectures")
	if raw == nil {
		return
	}
	var list []string
	if json.Unmarshal(raw, &list) != nil {
		o.fail("architectures", "is not a list of strings")
		return
	}
	if len(list) > 0 && !slices.Contains(list, class) {
		o.fail("architectures", "only %s is implemented for this family", class)
	}
}

// must refuses a field that has another value than the family's only one.
func (o *object) must(name, want string) {
	if raw := o.take(name); raw != nil && string(raw) != want {
		o.fail(name, "this family is implemented with %s only", want)
	}
}

// windows sets every layer's window, and checks layer_types, which may only
// repeat it: transformers' code for these families has one mask for all layers.
func (s *Spec) windows(o *object, window int) {
	want := "full_attention"
	if window > 0 {
		want = "sliding_attention"
	}
	for i := range s.Layers {
		s.Layers[i].Window = window
	}
	raw := o.take("layer_types")
	if raw == nil {
		return
	}
	var types []string
	if json.Unmarshal(raw, &types) != nil || len(types) != len(s.Layers) {
		o.fail("layer_types", "is not a list of %d strings", len(s.Layers))
		return
	}
	for i, t := range types {
		if t != want {
			o.fail("layer_types", "layer %d has %q, but sliding_window makes every layer of this family %q", i, cut(t), want)
		}
	}
}

// harmless are the fields of any configuration that change nothing of what is
// computed here: names and versions; training; how Hugging Face's own code runs
// and what it returns; labels; defaults of generation, which
// generation_config.json has.
var harmless = strings.Fields(`
	_name_or_path _commit_hash transformers_version transformers.js_config auto_map model_name name_or_path
	unsloth_version unsloth_fixed
	initializer_range router_aux_loss_coef router_jitter_noise attention_dropout output_router_logits
	hidden_dropout resid_pdrop embd_pdrop gradient_checkpointing
	use_cache attn_implementation _attn_implementation _attn_implementation_autoset _experts_implementation
	output_attentions output_hidden_states return_dict torchscript use_bfloat16 tf_legacy_loss
	chunk_size_feed_forward id2label label2id num_labels problem_type task_specific_params tokenizer_class prefix
	finetuning_task pad_token_id sep_token_id cls_token_id model_max_length decoder_start_token_id forced_bos_token_id forced_eos_token_id
	max_length min_length do_sample early_stopping num_beams num_beam_groups diversity_penalty temperature top_k top_p
	typical_p repetition_penalty length_penalty no_repeat_ngram_size encoder_no_repeat_ngram_size bad_words_ids
	num_return_sequences output_scores return_dict_in_generate remove_invalid_values
	exponential_decay_length_penalty suppress_tokens begin_suppress_tokens
`)

// refuseLeft refuses fields that nobody took and that say something.
func (o *object) refuseLeft() {
	for _, name := range o.left() {
		if o.prefix == "" && slices.Contains(harmless, name) {
			continue
		}
		switch string(o.fields[name]) {
		case "null", "false", "[]", "{}":
			continue
		}
		o.fail(name, "%s", unknown(name))
	}
}

// unknown says what to make of a field.
func unknown(name string) string {
	if name == "quantization_config" {
		return "quantised checkpoints are not implemented; use one with f32, f16 or bf16 weights"
	}
	return "this field is not known here and might change the model's output; remove it where it does not"
}
