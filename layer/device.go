package layer

import (
	"fmt"

	"github.com/tandem-moe/tandem/kernel"
	"github.com/tandem-moe/tandem/model"
)

// AttentionOps are the operations that the attention part, with router and head, calls.
// A node's [kernel.Device] has them, and the rest that a node needs: the queue.
type AttentionOps interface {
	kernel.Memory
	kernel.Products
	kernel.Elementwise
	kernel.RowMover
	kernel.Vocabulary
	kernel.Attention
	kernel.Router
}

// ExpertOps are the operations that the expert part calls. An expert node's
// [kernel.ExpertDevice] has them, and the queue.
type ExpertOps interface {
	kernel.Memory
	kernel.Products
	kernel.Elementwise
	kernel.RowMover
}

// loadOps are the operations that load weights.
type loadOps interface {
	Pack(parts ...kernel.HostMatrix) (kernel.Weight, error)
	Vector(t kernel.DType, data []byte) (kernel.Buffer, error)
	Free(b kernel.Buffer)
}

// CheckAttention returns an error that names the capabilities that a model's attention
// part needs and the device lacks.
func CheckAttention(p kernel.Properties, spec *model.Spec) error {
	var need kernel.Capabilities
	for l := range spec.Layers {
		a := spec.AttentionOf(l)
		need |= when(spec.Layers[l].Window > 0, kernel.Windows) |
			when(a.Sinks, kernel.Sinks) |
			when(a.ValueWidth() != a.HeadDim, kernel.ValueDims) |
			when(spec.Rope.Dim != a.HeadDim, kernel.PartialRope)
	}
	r := spec.Router
	need |= when(spec.Rope.Interleaved, kernel.InterleavedRope) |
		when(r.Sigmoid, kernel.SigmoidScores) |
		when(r.Bias, kernel.RouterBias) |
		when(r.Groups > 0, kernel.RouterGroups) |
		when(spec.DenseIntermediate > 0 && spec.SwiGLU != model.SwiGLU{}, kernel.ShapedSwiGLU)
	if err := p.Require(need); err != nil {
		return fmt.Errorf("attention: %w", err)
	}
	return nil
}

// CheckExperts returns an error that names the capabilities that a model's expert part
// needs and the device lacks.
func CheckExperts(p kernel.Properties, spec *model.Spec) error {
	shaped := when(spec.SwiGLU != model.SwiGLU{}, kernel.ShapedSwiGLU)
	if err := p.Require(shaped | when(spec.ExpertBias, kernel.GroupedBias)); err != nil {
		return fmt.Errorf("experts: %w", err)
	}
	return nil
}

// swiGLU is the activation of a model's MLPs and experts.
func swiGLU(spec *model.Spec) kernel.SwiGLUParams {
	s := spec.SwiGLU
	return kernel.SwiGLUParams{Limit: float32(s.Limit), Alpha: float32(s.Alpha), Offset: float32(s.Offset)}
}

func when(needed bool, c kernel.Capabilities) kernel.Capabilities {
	if needed {
		return c
	}
	return 0
}
