package model

import "math"

// RopeType is a rule for the frequencies of rotary position embedding.
type RopeType string

// Rules that are implemented. Dynamic equals Default up to the length that the
// model was trained for, and is limited to it.
const (
	RopeDefault RopeType = "default"
	RopeLinear  RopeType = "linear"
	RopeDynamic RopeType = "dynamic"
	RopeYarn    RopeType = "yarn"
	RopeLlama3  RopeType = "llama3"
)

// Rope says how queries and keys are rotated: Dim elements of a head are pairs, of
// which pair i turns by position × frequency i. Fields that a rule does not use are
// zero.
type Rope struct {
	Type  RopeType
	Theta float64
	// Dim is the number of a head's elements that are rotated, First the first of them.
	Dim   int
	First int `json:",omitzero"`
	// Interleaved says that elements 2i and 2i+1 of those are pair i; otherwise i and
	// i+Dim/2 are.
	Interleaved bool `json:",omitzero"`
	// Factor is the stretch of the context (linear, dynamic, yarn, llama3).
	Factor float64
	// OriginalPositions is the context before it was stretched (yarn, llama3).
	OriginalPositions int

	// AttentionFactor multiplies cosines and sines (yarn); 0 means that it
	// follows from Factor, MScale and MScaleAllDim.
	AttentionFactor      float64
	MScale, MScaleAllDim float64
	// BetaFast and BetaSlow are rotations over the original context that bound
	// the ramp (yarn); Truncate rounds the ramp's ends outwards.
	BetaFast, BetaSlow float64
	Truncate           bool

	// LowFreqFactor and HighFreqFactor bound the wavelengths that are
	// interpolated (llama3).
	LowFreqFactor, HighFreqFactor float64
}

// parseRope reads rope_parameters, or rope_theta and rope_scaling, as
// transformers' RotaryEmbeddingConfigMixin does, and returns the rule with the
// longest sequence that it allows.
func parseRope(o *object, dim, maxPositions int, defaultTheta float64) (Rope, int) {
	original := 0
	if o.has("original_max_position_embeddings") {
		original = o.integer("original_max_position_embeddings", nil, 1, maxSize)
	}
	p := ropeObject(o)
	r := Rope{Type: ropeType(&p), Theta: ropeTheta(o, &p, defaultTheta), Dim: dim}
	for _, q := range []*object{o, &p} {
		if f := q.number("partial_rotary_factor", 1); f != 1 {
			q.fail("partial_rotary_factor", "only 1 is implemented: all of a head is rotated")
		}
	}
	switch r.Type {
	case RopeDefault:
	case RopeLinear:
		r.Factor = p.factor()
	case RopeDynamic:
		r.Factor = p.factor()
		// Both readings of "original length" give the default frequencies up to
		// the smaller one.
		maxPositions = min(maxPositions, p.integer("original_max_position_embeddings", &maxPositions, 1, maxSize))
	case RopeYarn:
		maxPositions = r.yarn(&p, original, maxPositions)
	case RopeLlama3:
		r.llama3(&p, original, maxPositions)
	default:
		p.fail(ropeTypeField(&p), "this rope type is not implemented (default, linear, dynamic, yarn and llama3 are)")
	}
	p.refuseLeft()
	return r, maxPositions
}

// ropeObject returns the object with the rule's parameters, empty where none is
// given.
func ropeObject(o *object) object {
	field := "rope_parameters"
	old, now := o.take("rope_scaling"), o.take("rope_parameters")
	if old != nil && now != nil {
		o.fail("rope_scaling", "rope_parameters is given too; only one of them can count")
	}
	if old != nil {
		field = "rope_scaling"
	}
	return o.object(field)
}

// ropeTypeField is the name under which the type is given.
func ropeTypeField(p *object) string {
	if p.has("rope_type") {
		return "rope_type"
	}
	return "type"
}

func ropeType(p *object) RopeType {
	legacy := p.text("type", string(RopeDefault))
	t := p.text("rope_type", legacy)
	if p.has("type") && t != legacy {
		p.fail("type", "rope_type is %q; only one of them can count", t)
	}
	return RopeType(t)
}

func ropeTheta(o, p *object, def float64) float64 {
	outer := o.positive("rope_theta", def, largestNumber)
	theta := p.positive("rope_theta", outer, largestNumber)
	if o.has("rope_theta") && theta != outer {
		p.fail("rope_theta", "rope_theta outside is %v; only one of them can count", outer)
	}
	if theta <= 1 {
		if p.has("rope_theta") {
			o = p
		}
		o.fail("rope_theta", "is not above 1")
	}
	return theta
}

// factor reads the stretch, which must be given.
func (o *object) factor() float64 {
	if !o.has("factor") {
		o.fail("factor", "is missing")
	}
	return o.between("factor", 1, 1, largestNumber)
}

// originalPositions reads the context before the stretch. Like transformers, the
// field beside rope_parameters wins over the one inside, and the whole context
// counts where neither is given.
func (o *object) originalPositions(outer, maxPositions int) int {
	n := o.integer("original_max_position_embeddings", &maxPositions, 1, maxSize)
	if outer == 0 {
		return n
	}
	if o.has("original_max_position_embeddings") && n != outer {
		o.fail("original_max_position_embeddings", "original_max_position_embeddings outside is %d; only one of them can count", outer)
	}
	return outer
}

// yarn reads the parameters of https://arxiv.org/abs/2309.00071 as transformers'
// _compute_yarn_parameters takes them: what is missing, null or 0 is the
// default. It returns the longest sequence: the original length times the factor,
// as vLLM has it (config/model.py, _get_and_verify_max_len). Recipes for YaRN
// leave max_position_embeddings as it was before the stretch.
func (r *Rope) yarn(p *object, original, maxPositions int) int {
	r.OriginalPositions = p.originalPositions(original, maxPositions)
	r.Factor = float64(maxPositions) / float64(r.OriginalPositions)
	longest := float64(maxPositions)
	if p.take("factor") != nil {
		r.Factor = p.factor()
		longest = math.Floor(float64(r.OriginalPositions) * r.Factor)
	} else if r.Factor < 1 {
		p.fail("original_max_position_embeddings", "is above max_position_embeddings = %d", maxPositions)
	}
	if longest > maxSize {
		p.fail("factor", "times the original length of %d is above the limit of %d positions", r.OriginalPositions, maxSize)
		longest = maxSize
	}
	r.yarnShape(p)
	return int(longest)
}

// yarnShape reads how YaRN mixes frequencies and scales.
func (r *Rope) yarnShape(p *object) {
	r.AttentionFactor = p.positive("attention_factor", 0, largestNumber)
	r.MScale = p.between("mscale", 0, 0, largestNumber)
	r.MScaleAllDim = p.between("mscale_all_dim", 0, 0, largestNumber)
	r.BetaFast = orDefault(p.between("beta_fast", 32, 0, largestNumber), 32)
	r.BetaSlow = orDefault(p.between("beta_slow", 1, 0, largestNumber), 1)
	r.Truncate = p.boolean("truncate", true)
	if r.BetaFast < r.BetaSlow {
		p.fail("beta_fast", "is below beta_slow, %g", r.BetaSlow)
	}
}

func orDefault(x, def float64) float64 {
	if x == 0 {
		return def
	}
	return x
}

// llama3 reads the parameters of Llama 3.1's rule.
func (r *Rope) llama3(p *object, original, maxPositions int) {
	r.OriginalPositions = p.originalPositions(original, maxPositions)
	r.Factor = p.factor()
	for _, f := range []struct {
		name string
		to   *float64
	}{{"low_freq_factor", &r.LowFreqFactor}, {"high_freq_factor", &r.HighFreqFactor}} {
		if !p.has(f.name) {
			p.fail(f.name, "is missing")
		}
		*f.to = p.positive(f.name, 1, largestNumber)
	}
	if r.HighFreqFactor <= r.LowFreqFactor {
		p.fail("high_freq_factor", "is not above low_freq_factor, %g", r.LowFreqFactor)
	}
}
