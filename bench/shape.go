package bench

import (
	"fmt"
	"slices"

	"github.com/tandem-moe/tandem/model"
)

// Shape is the size of a model of random weights: a Qwen3-MoE, every layer
// sparse, queries and keys normalised per head, embedding and head apart.
type Shape struct {
	Name               string
	Hidden, Layers     int
	Heads, KVHeads     int
	HeadDim            int
	Experts, TopK      int
	ExpertIntermediate int
	Vocabulary         int
	MaxPositions       int
}

// shapes are those that have a name. Small and medium are the ones that other
// engines have been measured on (docs/performance-log.md); tiny is for tests.
var shapes = []Shape{
	{Name: "tiny", Hidden: 64, Layers: 2, Heads: 4, KVHeads: 2, HeadDim: 16, Experts: 8, TopK: 2, ExpertIntermediate: 32, Vocabulary: 256, MaxPositions: 512},
	{Name: "small", Hidden: 1024, Layers: 16, Heads: 16, KVHeads: 4, HeadDim: 64, Experts: 32, TopK: 4, ExpertIntermediate: 512, Vocabulary: 32000, MaxPositions: 4096},
	{Name: "medium", Hidden: 2048, Layers: 16, Heads: 32, KVHeads: 4, HeadDim: 64, Experts: 32, TopK: 4, ExpertIntermediate: 1024, Vocabulary: 32000, MaxPositions: 4096},
}

// ShapeNames lists the shapes that have a name, smallest first.
func ShapeNames() []string {
	var names []string
	for _, s := range shapes {
		names = append(names, s.Name)
	}
	return names
}

// ShapeOf finds a shape by its name.
func ShapeOf(name string) (Shape, error) {
	i := slices.IndexFunc(shapes, func(s Shape) bool { return s.Name == name })
	if i < 0 {
		return Shape{}, fmt.Errorf("shape %q: want one of %q", name, ShapeNames())
	}
	return shapes[i], nil
}

// Spec is the shape as a model.
func (s Shape) Spec() *model.Spec {
	spec := &model.Spec{
		Family: model.Qwen3MoE, Vocabulary: s.Vocabulary, Hidden: s.Hidden, NormEps: 1e-6, MaxPositions: s.MaxPositions,
		Attention:          model.Attention{Heads: s.Heads, KVHeads: s.KVHeads, HeadDim: s.HeadDim, QKNorm: model.PerHead},
		Rope:               model.Rope{Type: model.RopeDefault, Theta: 1e6, Dim: s.HeadDim},
		Router:             model.Router{Experts: s.Experts, TopK: s.TopK, Normalize: true},
		ExpertIntermediate: s.ExpertIntermediate,
		Layers:             make([]model.Layer, s.Layers),
	}
	for i := range spec.Layers {
		spec.Layers[i].Sparse = true
	}
	return spec
}
