package gopher_test

import (
	"runtime"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/tandem-moe/tandem/model"
	"github.com/tandem-moe/tandem/model/gopher"
)

func TestModelIsWhole(t *testing.T) {
	spec, err := model.ReadSpec(gopher.Files())
	require.NoError(t, err)
	require.Equal(t, model.Qwen3MoE, spec.Family)
	require.Equal(t, model.Router{Experts: 16, TopK: 2, Normalize: true}, spec.Router)
	generation, err := model.ReadGeneration(gopher.Files(), spec)
	require.NoError(t, err)
	require.Equal(t, []int32{0}, spec.Ends(generation))

	weights, err := gopher.Open()
	require.NoError(t, err)
	catalogue, err := spec.Catalogue(weights.Has)
	require.NoError(t, err)
	require.NoError(t, catalogue.Check(weights.Shapes()))
	require.NoError(t, weights.Close())
}

func TestWeightsAreNotCopied(t *testing.T) {
	var before, after runtime.MemStats
	runtime.ReadMemStats(&before)
	_, err := gopher.Open()
	runtime.ReadMemStats(&after)
	require.NoError(t, err)
	require.Less(t, after.TotalAlloc-before.TotalAlloc, uint64(2<<20), "bytes allocated to open 15 MB of weights")
}
