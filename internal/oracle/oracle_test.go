package oracle

import (
	"os"
	"path/filepath"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/tandem-moe/tandem/model"
)

// TestReferencesFitTheirModels reads everything that tests compare with.
func TestReferencesFitTheirModels(t *testing.T) {
	for _, dir := range Models(t, model.Mixtral, model.Qwen3MoE, model.OLMoE) {
		t.Run(filepath.Base(dir), func(t *testing.T) {
			spec, err := model.ReadSpec(os.DirFS(dir))
			require.NoError(t, err)
			r := Load(t, dir)
			require.Len(t, r.Greedy, len(r.Prompts))
			for p, ids := range r.Prompts {
				m := r.Logits(t, p)
				require.Equal(t, [2]int{len(ids), spec.Vocabulary}, [2]int{m.Rows, m.Cols})
				require.Len(t, m.Row(m.Rows-1), spec.Vocabulary)
				require.Positive(t, r.Greedy[p].MinMargin)
			}
			for l := range len(spec.Layers) + 1 {
				require.Equal(t, spec.Hidden, r.Hidden(t, l).Cols)
			}
			for l, layer := range spec.Layers {
				m, ok := r.Router(t, l)
				require.Equal(t, layer.Sparse, ok)
				require.True(t, !ok || m.Cols == spec.Router.Experts)
			}
		})
	}
}

func TestModelsKeepsFamilies(t *testing.T) {
	for _, dir := range Models(t, model.OLMoE) {
		require.Equal(t, model.OLMoE, familyOf(t, dir))
	}
	require.NotEmpty(t, Models(t, model.OLMoE))
}

func TestGopherHasCompletions(t *testing.T) {
	list := Gopher(t)
	require.Len(t, list, 5)
	for _, c := range list {
		require.NotEmpty(t, c.IDs)
		require.Len(t, c.Greedy, 48)
		require.Positive(t, c.MinMargin)
	}
}
