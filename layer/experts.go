package layer

import (
	"fmt"

	"github.com/tandem-moe/tandem/kernel"
	"github.com/tandem-moe/tandem/model"
)

// Experts computes experts on one device.
type Experts struct {
	spec   *model.Spec
	dev    ExpertOps
	gateUp kernel.Buffer
	hidden kernel.Buffer
	rows   int // room in the buffers
}

// NewExperts returns the expert part of a model. It is an error, by name, where the
// device cannot do what the model needs.
func NewExperts(dev ExpertOps, spec *model.Spec) (*Experts, error) {
	if err := CheckExperts(dev.Properties(), spec); err != nil {
		return nil, err
	}
	return &Experts{spec: spec, dev: dev}, nil
}

// Forward computes experts of one layer. Rows offsets[i] … offsets[i+1]-1 of in,
// [n, hidden], go through the i-th expert of w; each result is multiplied by
// its element of gate, [n, 1], and written to out, [n, hidden].
func (e *Experts) Forward(w ExpertLayer, out, in, gate kernel.Mat, offsets []int32) error {
	if in.Rows == 0 {
		return nil
	}
	if err := e.reserve(in.Rows); err != nil {
		return err
	}
	i := e.spec.ExpertIntermediate
	gateUp, hidden := kernel.MatOf(e.gateUp, in.Rows, 2*i), kernel.MatOf(e.hidden, in.Rows, i)
	e.dev.GroupedLinear(gateUp, in, w.gateUp, w.gateUpBias, offsets)
	e.dev.SwiGLU(hidden, gateUp, swiGLU(e.spec))
	e.dev.GroupedLinear(out, hidden, w.down, w.downBias, offsets)
	e.dev.ScaleRows(out, gate)
	return nil
}

// Sum writes to row r of dst the sum of results: rows rows[i] of parts, for i from
// offsets[r] to offsets[r+1], in that order. It is [Attention.Combine] without a
// residual stream.
func (e *Experts) Sum(dst, parts kernel.Mat, rows, offsets []int32) {
	e.dev.Combine(dst, kernel.Mat{}, parts, rows, offsets)
}

// reserve makes room for n rows between the products.
func (e *Experts) reserve(n int) error {
	if n <= e.rows {
		return nil
	}
	e.Free()
	var err error
	if e.gateUp, err = e.dev.Alloc(kernel.DeviceMemory, kernel.F32, n*2*e.spec.ExpertIntermediate); err != nil {
		return fmt.Errorf("experts' activations of %d rows: %w", n, err)
	}
	if e.hidden, err = e.dev.Alloc(kernel.DeviceMemory, kernel.F32, n*e.spec.ExpertIntermediate); err != nil {
		return fmt.Errorf("experts' activations of %d rows: %w", n, err)
	}
	e.rows = n
	return nil
}

// Free gives the activations' memory back.
func (e *Experts) Free() {
	for _, b := range []*kernel.Buffer{&e.gateUp, &e.hidden} {
		if *b != nil {
			e.dev.Free(*b)
			*b = nil
		}
	}
	e.rows = 0
}
