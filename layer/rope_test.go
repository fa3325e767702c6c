package layer

import (
	"encoding/json"
	"fmt"
	"math"
	"os"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/tandem-moe/tandem/internal/golden"
	"github.com/tandem-moe/tandem/model"
)

// ropeCase is a configuration and what transformers computes for it; see
// scripts/fixtures/rope.py.
type ropeCase struct {
	Config json.RawMessage `json:"config"`
	Inv    []float32       `json:"inv"`
	Scale  float32         `json:"scale"`
}

func ropeCases(t *testing.T) (cases []ropeCase, ropes []model.Rope) {
	text, err := os.ReadFile("testdata/rope.json")
	require.NoError(t, err)
	require.NoError(t, json.Unmarshal(text, &cases))
	for _, c := range cases {
		spec, err := model.ParseSpec(c.Config)
		require.NoError(t, err)
		ropes = append(ropes, spec.Rope)
	}
	return cases, ropes
}

// TestFrequenciesEqualTransformers allows 3 ulp: torch's vectorised power has an
// error of its own.
func TestFrequenciesEqualTransformers(t *testing.T) {
	cases, ropes := ropeCases(t)
	require.NotEmpty(t, cases)
	for i, c := range cases {
		inv, scale, err := Frequencies(ropes[i])
		require.NoError(t, err)
		require.Len(t, inv, len(c.Inv))
		require.LessOrEqual(t, ulps(scale, c.Scale), int64(1), "scale of %+v", ropes[i])
		for j := range inv {
			require.LessOrEqual(t, ulps(inv[j], c.Inv[j]), int64(3), "pair %d of %+v: %v, transformers has %v", j, ropes[i], inv[j], c.Inv[j])
		}
	}
}

// ulps is the distance between two positive floats.
func ulps(a, b float32) int64 {
	d := int64(math.Float32bits(a)) - int64(math.Float32bits(b))
	return max(d, -d)
}

// TestFrequenciesAreTheSameBits holds every machine to the bits recorded on one.
func TestFrequenciesAreTheSameBits(t *testing.T) {
	_, ropes := ropeCases(t)
	var b strings.Builder
	for _, r := range ropes {
		inv, scale, err := Frequencies(r)
		require.NoError(t, err)
		fmt.Fprintf(&b, "%s %08x", r.Type, math.Float32bits(scale))
		for _, f := range inv {
			fmt.Fprintf(&b, " %08x", math.Float32bits(f))
		}
		b.WriteByte('\n')
	}
	golden.File(t, "rope.golden", b.String())
}

func TestFrequenciesRefuses(t *testing.T) {
	for _, r := range []model.Rope{
		{Type: "longrope", Theta: 1e4, Dim: 8},
		{Type: model.RopeDefault, Theta: 1e4, Dim: 7},
		{Type: model.RopeDefault, Theta: 1e4},
		{Type: model.RopeLinear, Theta: 1e4, Dim: 8},
	} {
		_, _, err := Frequencies(r)
		require.Error(t, err, "%+v", r)
	}
}
