package attention

import (
	"context"
	"fmt"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/tandem-moe/tandem/model"
	"github.com/tandem-moe/tandem/route"
	"github.com/tandem-moe/tandem/schedule"
)

// spec is a model of some layers, the first of which is dense.
func spec(layers int) *model.Spec {
	s := &model.Spec{Layers: make([]model.Layer, layers)}
	for l := range s.Layers {
		s.Layers[l].Sparse = l > 0 || layers == 1
	}
	return s
}

// TestWalk: a node begins all micro-batches, and then goes round.
func TestWalk(t *testing.T) {
	w, err := newWalk(spec(2), 3, 2)
	require.NoError(t, err)
	for _, want := range []string{"[1:A0F0 1:A0F1 1:A1F0 1:A1F1]", "[1:HF0 2:A0F0 1:HF1 2:A0F1 2:A1F0 2:A1F1]", "[2:HF0 3:A0F0 2:HF1 3:A0F1 3:A1F0 3:A1F1]"} {
		var got []schedule.Action
		require.NoError(t, w.Pass(t.Context(), func(_ context.Context, a schedule.Action) error {
			got = append(got, a)
			return nil
		}))
		require.Equal(t, want, fmt.Sprint(got))
	}
}

// TestWalkOfAnyCluster: the largest cluster that the settings allow starts, and
// what is proved of it stays small.
func TestWalkOfAnyCluster(t *testing.T) {
	for _, c := range []struct{ layers, experts, microBatches int }{
		{1, 1, 1}, {100, 64, 4}, {256, 1 << 10, route.MaxMicroBatches},
	} {
		w, err := newWalk(spec(c.layers), c.experts, c.microBatches)
		require.NoError(t, err)
		require.Equal(t, "1:A0F0", w.At().String())
	}
	_, err := newWalk(spec(1), 1, 0)
	require.ErrorContains(t, err, "0 micro-batches, want at least 1")
}
