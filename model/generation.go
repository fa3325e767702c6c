package model

import (
	"errors"
	"fmt"
	"io/fs"
	"slices"
	"strings"

	"github.com/tandem-moe/tandem/internal/bounded"
)

// GenerationFile is the file that GenerationDefaults are read from.
const GenerationFile = "generation_config.json"

// GenerationDefaults are what a request gets that does not say otherwise. A nil
// field is not told.
type GenerationDefaults struct {
	// DoSample false means greedy; transformers then ignores the others.
	DoSample          *bool
	Temperature       *float64
	TopP, MinP        *float64
	TopK              *int
	RepetitionPenalty *float64
	MaxNewTokens      *int
	// EOS are the ids that end an output, nil where the file tells none.
	EOS []int32
	// Unapplied lists fields, as "name = value", that change what transformers
	// generates and that are not implemented: to be told to people.
	Unapplied []string
}

// ReadGeneration reads generation_config.json at the root of fsys; without one
// nothing is told.
func ReadGeneration(fsys fs.FS, s *Spec) (GenerationDefaults, error) {
	data, err := bounded.ReadFile(fsys, GenerationFile, maxConfigBytes)
	if errors.Is(err, fs.ErrNotExist) {
		return GenerationDefaults{}, nil
	}
	if err != nil {
		return GenerationDefaults{}, fmt.Errorf("read the defaults of generation: %w", err)
	}
	return ParseGeneration(data, s)
}

// ParseGeneration reads the text of a generation_config.json of a model.
func ParseGeneration(data []byte, s *Spec) (GenerationDefaults, error) {
	var err error
	o := parseObject(GenerationFile, data, &err)
	g := GenerationDefaults{
		DoSample:    optional(&o, "do_sample", func(n string) bool { return o.boolean(n, false) }),
		Temperature: o.optionalNumber("temperature", 0, largestNumber),
		TopP:        o.optionalNumber("top_p", 0, 1),
		MinP:        o.optionalNumber("min_p", 0, 1),
		TopK:        optional(&o, "top_k", func(n string) int { return o.integer(n, nil, 0, maxSize) }),
		RepetitionPenalty: optional(&o, "repetition_penalty",
			func(n string) float64 { return o.positive(n, 1, largestNumber) }),
		MaxNewTokens: optional(&o, "max_new_tokens", func(n string) int { return o.integer(n, nil, 1, 1<<31-1) }),
		EOS:          o.ids("eos_token_id", s.Vocabulary),
	}
	g.Unapplied = o.unapplied()
	if err != nil {
		return GenerationDefaults{}, err
	}
	return g, nil
}

// Ends returns the ids that end an output: generation_config.json's, or
// config.json's where it has none.
func (s *Spec) Ends(g GenerationDefaults) []int32 {
	if g.EOS != nil {
		return g.EOS
	}
	return s.EOS
}

func optional[T any](o *object, name string, read func(string) T) *T {
	if !o.has(name) {
		o.take(name)
		return nil
	}
	x := read(name)
	return &x
}

func (o *object) optionalNumber(name string, lo, hi float64) *float64 {
	return optional(o, name, func(n string) float64 { return o.between(n, 0, lo, hi) })
}

// unappliedFields change what transformers generates unless they have the value
// given.
var unappliedFields = map[string]string{
	"num_beams": "1", "num_beam_groups": "1", "penalty_alpha": "0", "typical_p": "1", "epsilon_cutoff": "0",
	"eta_cutoff": "0", "top_h": "1", "diversity_penalty": "0", "encoder_repetition_penalty": "1",
	"length_penalty": "1", "no_repeat_ngram_size": "0", "encoder_no_repeat_ngram_size": "0", "bad_words_ids": "",
	"force_words_ids": "", "sequence_bias": "", "suppress_tokens": "", "begin_suppress_tokens": "",
	"forced_bos_token_id": "", "forced_eos_token_id": "", "exponential_decay_length_penalty": "",
	"guidance_scale": "1", "watermarking_config": "", "min_length": "0", "min_new_tokens": "0", "stop_strings": "",
	"dola_layers": "", "renormalize_logits": "",
}

func (o *object) unapplied() []string {
	var list []string
	for _, name := range o.left() {
		off, known := unappliedFields[name]
		value := shorten(o.fields[name])
		idle := []string{off, off + ".0", "null", "false", "[]", "{}"}
		if known && !slices.Contains(idle, strings.TrimSpace(value)) {
			list = append(list, name+" = "+value)
		}
	}
	return list
}
