package layer

import (
	"fmt"
	"math"

	"github.com/tandem-moe/tandem/kernel/detmath"
	"github.com/tandem-moe/tandem/model"
)

// Frequencies returns what positions are multiplied by to give the angles of
// rotary embedding, one for each of the Dim/2 pairs of a head, and the factor on
// cosines and sines.
//
// It follows transformers' modeling_rope_utils.py operation by operation, in
// f32 where that does, so that angles agree at long positions too; the power
// alone is more exact (torch's is within an ulp or two). The result is the same
// on every machine.
func Frequencies(r model.Rope) (inv []float32, scale float32, err error) {
	if r.Dim <= 0 || r.Dim%2 != 0 {
		return nil, 0, fmt.Errorf("rope: %d elements of a head cannot be rotated in pairs", r.Dim)
	}
	periods := powers(r.Theta, r.Dim)
	scale = 1
	switch r.Type {
	case model.RopeDefault, model.RopeDynamic:
		inv = reciprocals(periods)
	case model.RopeLinear:
		inv = reciprocals(periods)
		for i := range inv {
			inv[i] /= float32(r.Factor)
		}
	case model.RopeLlama3:
		inv = llama3Frequencies(r, reciprocals(periods))
	case model.RopeYarn:
		inv, scale = yarnFrequencies(r, periods), float32(yarnScale(r))
	default:
		return nil, 0, fmt.Errorf("rope: the type %q is not implemented", r.Type)
	}
	return inv, scale, finite(r, inv, scale)
}

// powers returns Theta^(2i/dim) for every pair i.
func powers(theta float64, dim int) []float32 {
	p := make([]float32, dim/2)
	for i := range p {
		exponent := float32(2*i) / float32(dim)
		p[i] = float32(detmath.Pow(theta, float64(exponent)))
	}
	return p
}

func reciprocals(x []float32) []float32 {
	r := make([]float32, len(x))
	for i := range x {
		r[i] = 1 / x[i]
	}
	return r
}

// llama3Frequencies leaves short wavelengths, divides long ones by the factor,
// and passes smoothly from one to the other.
func llama3Frequencies(r model.Rope, inv []float32) []float32 {
	original := float64(r.OriginalPositions)
	long, short := float32(original/r.LowFreqFactor), float32(original/r.HighFreqFactor)
	low, span, factor := float32(r.LowFreqFactor), float32(r.HighFreqFactor-r.LowFreqFactor), float32(r.Factor)
	out := make([]float32, len(inv))
	for i, f := range inv {
		switch wavelength := float32(2*math.Pi) / f; {
		case wavelength < short:
			out[i] = f
		case wavelength > long:
			out[i] = f / factor
		default:
			s := (float32(original)/wavelength - low) / span
			out[i] = float32((1-s)*f)/factor + float32(s*f)
		}
	}
	return out
}

// yarnFrequencies keeps the pairs that turn often over the original context,
// divides those that turn rarely by the factor, and mixes those between
// (https://arxiv.org/abs/2309.00071, section 3.2).
func yarnFrequencies(r model.Rope, periods []float32) []float32 {
	low, high := yarnRange(r)
	if low == high {
		high += 0.001
	}
	out := make([]float32, len(periods))
	for i, p := range periods {
		ramp := (float32(i) - float32(low)) / float32(high-low)
		keep := 1 - min(max(ramp, 0), 1)
		stretched := 1 / float32(float32(r.Factor)*p)
		out[i] = float32(stretched*(1-keep)) + float32(1/p*keep)
	}
	return out
}

// yarnRange returns the pairs between which frequencies are mixed.
func yarnRange(r model.Rope) (low, high float64) {
	low, high = yarnPair(r, r.BetaFast), yarnPair(r, r.BetaSlow)
	if r.Truncate {
		low, high = math.Floor(low), -math.Floor(-high)
	}
	return max(low, 0), min(high, float64(r.Dim-1))
}

// yarnPair is the pair, as a fraction, that turns this many times over the
// original context.
func yarnPair(r model.Rope, rotations float64) float64 {
	turns := float64(r.OriginalPositions) / (rotations * 2 * math.Pi)
	return float64(r.Dim) * detmath.Log(turns) / (2 * detmath.Log(r.Theta))
}

// yarnScale is the factor on cosines and sines.
func yarnScale(r model.Rope) float64 {
	switch {
	case r.AttentionFactor != 0:
		return r.AttentionFactor
	case r.MScale != 0 && r.MScaleAllDim != 0:
		return yarnMScale(r.Factor, r.MScale) / yarnMScale(r.Factor, r.MScaleAllDim)
	}
	return yarnMScale(r.Factor, 1)
}

func yarnMScale(factor, mscale float64) float64 {
	if factor <= 1 {
		return 1
	}
	return float64(0.1*mscale*detmath.Log(factor)) + 1
}

// finite refuses a rule whose numbers overflow.
func finite(r model.Rope, inv []float32, scale float32) error {
	for i, f := range append([]float32{scale}, inv...) {
		if math.IsNaN(float64(f)) || math.IsInf(float64(f), 0) {
			return fmt.Errorf("rope: value %d of %+v is not finite", i, r)
		}
	}
	return nil
}
