package bench

import (
	"encoding/binary"
	"math"
	"os"
	"path/filepath"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/tandem-moe/tandem/model"
	"github.com/tandem-moe/tandem/model/checkpoint"
)

// TestShapesHaveTheirSizes compares with the sizes that the peers' figures name.
func TestShapesHaveTheirSizes(t *testing.T) {
	for name, want := range map[string]struct{ total, active float64 }{
		"small": {0.9e9, 0.18e9}, "medium": {3.5e9, 0.64e9},
	} {
		s, err := ShapeOf(name)
		require.NoError(t, err)
		c, err := s.Spec().Catalogue(func(string) bool { return true })
		require.NoError(t, err)
		var total, idle float64
		for _, r := range randomTensors(c, s.Layers) {
			total += float64(r.Elements())
		}
		idle = float64(s.Vocabulary*s.Hidden) + float64(s.Layers*(s.Experts-s.TopK)*3*s.Hidden*s.ExpertIntermediate)
		require.InEpsilon(t, want.total, total, 0.05, name)
		require.InEpsilon(t, want.active, total-idle, 0.05, name)
	}
	_, err := ShapeOf("huge")
	require.ErrorContains(t, err, `"huge"`)
}

// TestModelOpens reads back what WriteModel wrote: every tensor of the
// catalogue, and nothing else.
func TestModelOpens(t *testing.T) {
	shape, err := ShapeOf("tiny")
	require.NoError(t, err)
	for _, dtype := range []checkpoint.DType{checkpoint.BF16, checkpoint.F32} {
		dir := filepath.Join(t.TempDir(), "model")
		require.NoError(t, WriteModel(dir, shape, dtype, 1))
		spec, err := model.ReadSpec(os.DirFS(dir))
		require.NoError(t, err)
		require.Equal(t, shape.Spec().Hash(), spec.Hash())
		ckpt, err := checkpoint.Open(dir)
		require.NoError(t, err)
		c, err := spec.Catalogue(ckpt.Has)
		require.NoError(t, err)
		list := randomTensors(c, shape.Layers)
		require.Len(t, ckpt.Names(), len(list))
		for _, want := range list {
			got, err := ckpt.Weight(want.Ref)
			require.NoError(t, err)
			require.Equal(t, dtype, got.DType)
			moments(t, want, elements(got))
		}
		require.NoError(t, ckpt.Close())
	}
}

// moments compares mean and deviation with what was asked for.
func moments(t *testing.T, want randomTensor, x []float64) {
	t.Helper()
	var sum, squares float64
	for _, v := range x {
		sum += v
		squares += v * v
	}
	n := float64(len(x))
	if want.deviation == 0 {
		require.Equal(t, n, sum, want.Name)
		require.Equal(t, n, squares, want.Name)
		return
	}
	require.InDelta(t, 0, sum/n, 5*want.deviation/math.Sqrt(n), want.Name)
	require.InEpsilon(t, want.deviation, math.Sqrt(squares/n), 5/math.Sqrt(n), want.Name)
}

func elements(t checkpoint.Tensor) []float64 {
	var x []float64
	for b := t.Data; len(b) > 0; b = b[t.DType.Size():] {
		bits := uint32(binary.LittleEndian.Uint16(b)) << 16
		if t.DType == checkpoint.F32 {
			bits = binary.LittleEndian.Uint32(b)
		}
		x = append(x, float64(math.Float32frombits(bits)))
	}
	return x
}

func TestBF16RoundsToNearestEven(t *testing.T) {
	for in, want := range map[uint32]uint16{
		0x3f800000: 0x3f80, 0x3f808000: 0x3f80, 0x3f808001: 0x3f81, 0x3f818000: 0x3f82, 0x3f7fffff: 0x3f80, 0xbf808001: 0xbf81,
	} {
		require.Equal(t, want, bf16(math.Float32frombits(in)), "%x", in)
	}
}

// TestModelIsReused checks that a folder is written once, and that another's is
// left alone.
func TestModelIsReused(t *testing.T) {
	shape, err := ShapeOf("tiny")
	require.NoError(t, err)
	dir := filepath.Join(t.TempDir(), "below", "model")
	require.NoError(t, WriteModel(dir, shape, checkpoint.BF16, 1))
	config := filepath.Join(dir, model.ConfigFile)
	before, err := os.Stat(config)
	require.NoError(t, err)
	require.NoError(t, WriteModel(dir, shape, checkpoint.BF16, 1))
	after, err := os.Stat(config)
	require.NoError(t, err)
	require.True(t, os.SameFile(before, after))

	require.ErrorContains(t, WriteModel(dir, shape, checkpoint.BF16, 2), dir)
	require.ErrorContains(t, WriteModel(dir, shape, checkpoint.F16, 1), "F16")
	other := t.TempDir()
	precious := filepath.Join(other, "precious")
	require.NoError(t, os.WriteFile(precious, []byte("mine"), 0o644))
	require.ErrorContains(t, WriteModel(other, shape, checkpoint.BF16, 1), "something else")
	require.FileExists(t, precious)
	left, err := filepath.Glob(filepath.Join(filepath.Dir(other), "*.part"))
	require.NoError(t, err)
	require.Empty(t, left)
}
