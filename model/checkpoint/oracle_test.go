package checkpoint_test

import (
	"os"
	"path/filepath"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/tandem-moe/tandem/internal/oracle"
	"github.com/tandem-moe/tandem/model"
	"github.com/tandem-moe/tandem/model/checkpoint"
)

// TestCheckpointsFitTheirModels opens every reference model, and rewrites it in
// one file and in many.
func TestCheckpointsFitTheirModels(t *testing.T) {
	for _, dir := range oracle.Models(t, model.Mixtral, model.Qwen3MoE, model.OLMoE) {
		t.Run(filepath.Base(dir), func(t *testing.T) {
			c, err := checkpoint.Open(dir)
			require.NoError(t, err)
			defer func() { require.NoError(t, c.Close()) }()
			spec, err := model.ReadSpec(os.DirFS(dir))
			require.NoError(t, err)
			catalogue, err := spec.Catalogue(c.Has)
			require.NoError(t, err)
			require.NoError(t, catalogue.Check(c.Shapes(), model.Role{}, spec.AllExperts()))
			require.Empty(t, catalogue.Unknown(c.Shapes()))
			requireWeights(t, c, catalogue, spec)
			for _, shard := range []int64{0, 200_000} {
				requireRewritten(t, c, shard)
			}
		})
	}
}

// requireWeights reads what every role needs.
func requireWeights(t *testing.T, c *checkpoint.Checkpoint, catalogue *model.Catalogue, spec *model.Spec) {
	t.Helper()
	for _, r := range []model.Role{{Part: model.AttentionPart}, spec.AllExperts()} {
		refs, err := catalogue.Refs(r)
		require.NoError(t, err)
		for _, ref := range refs {
			w, err := c.Weight(ref)
			require.NoError(t, err)
			require.Len(t, w.Data, int(ref.Elements()*w.DType.Size()))
		}
	}
}

func requireRewritten(t *testing.T, c *checkpoint.Checkpoint, shard int64) {
	t.Helper()
	var all []checkpoint.Named
	for _, name := range c.Names() {
		x, err := c.Tensor(name)
		require.NoError(t, err)
		all = append(all, checkpoint.Named{Name: name, Tensor: x})
	}
	dir := t.TempDir()
	require.NoError(t, checkpoint.WriteDir(dir, map[string]string{"format": "pt"}, all, shard))
	again, err := checkpoint.Open(dir)
	require.NoError(t, err)
	for _, n := range all {
		x, err := again.Tensor(n.Name)
		require.NoError(t, err)
		require.Equal(t, n.Tensor, x, n.Name)
	}
	require.NoError(t, again.Close())
}
