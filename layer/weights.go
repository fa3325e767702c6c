package layer

import (
	"context"
	"errors"
	"fmt"
	"runtime"

	"github.com/tandem-moe/tandem/kernel"
	"github.com/tandem-moe/tandem/model"
	"github.com/tandem-moe/tandem/model/checkpoint"
)

// AttentionWeights are all that an attention node holds of a model. Attention
// nodes of one process share them.
type AttentionWeights struct {
	embedding kernel.Weight
	head      kernel.Weight
	finalNorm kernel.Buffer
	rope      kernel.Rope
	layers    []attentionLayer
	vectors   []*kernel.Buffer // all vectors above, for Free

	// Digests are of the weights of model.AttentionPart, in the order of
	// Catalogue.Weights.
	Digests checkpoint.Digests
	// Untied says that the configuration ties the head to the embedding and that
	// the checkpoint has a head of its own, which counts.
	Untied bool
}

// Free gives back the vectors. The garbage collector frees matrices, and not vectors. No
// device may use the weights any more; dev is the device that they were loaded to.
func (w *AttentionWeights) Free(dev kernel.Memory) { freeVectors(dev, w.vectors) }

type attentionLayer struct {
	inputNorm, postNorm kernel.Buffer
	qkv, output         kernel.Weight
	qkvBias, outputBias kernel.Buffer // nil where there is none
	qNorm, kNorm        kernel.Buffer // nil where there is none
	sinks               kernel.Buffer // nil where there are none
	router              kernel.Weight // of a sparse layer
	routerBias          kernel.Buffer // nil where there is none
	dense               mlp           // of a dense one
}

type mlp struct{ gateUp, down kernel.Weight }

// workers is how many weights are read, hashed and packed at once: enough to use all of
// the memory's bandwidth where a file is in the page cache. Checkpoint.Load bounds the
// bytes in flight.
func workers() int { return min(8, max(2, runtime.GOMAXPROCS(0))) }

// Progress is told how many bytes of a role's weights have been loaded.
type Progress func(done, total int64)

// loader collects the weights to load to a device.
type loader struct {
	dev     loadOps
	jobs    []checkpoint.Job
	vectors []*kernel.Buffer
}

// free gives back the vectors that were loaded. The garbage collector finds
// matrices.
func (l *loader) free() { freeVectors(l.dev, l.vectors) }

func freeVectors(dev interface{ Free(b kernel.Buffer) }, vectors []*kernel.Buffer) {
	for _, v := range vectors {
		if *v != nil {
			dev.Free(*v)
			*v = nil
		}
	}
}

// matrix wants the concatenation of matrices.
func (l *loader) matrix(to *kernel.Weight, refs ...model.Ref) {
	l.jobs = append(l.jobs, checkpoint.Job{Refs: refs, Do: func(tensors []checkpoint.Tensor) error {
		parts := make([]kernel.HostMatrix, len(tensors))
		for i, t := range tensors {
			dtype, err := dtypeOf(t)
			if err != nil {
				return err
			}
			parts[i] = kernel.HostMatrix{DType: dtype, Out: refs[i].Shape[0], In: refs[i].Shape[1], Data: t.Data}
		}
		var err error
		*to, err = l.dev.Pack(parts...)
		return err
	}})
}

// vector wants the concatenation of vectors, or nothing where the model has
// none.
func (l *loader) vector(to *kernel.Buffer, refs ...model.Ref) {
	if !refs[0].Present() {
		return
	}
	l.vectors = append(l.vectors, to)
	l.jobs = append(l.jobs, checkpoint.Job{Refs: refs, Do: func(tensors []checkpoint.Tensor) error {
		var data []byte
		for _, t := range tensors {
			if t.DType != tensors[0].DType {
				return fmt.Errorf("a vector is %v, the one it is joined to %v", t.DType, tensors[0].DType)
			}
			data = append(data, t.Data...)
		}
		dtype, err := dtypeOf(tensors[0])
		if err != nil {
			return err
		}
		*to, err = l.dev.Vector(dtype, data)
		return err
	}})
}

// dtypeOf is a tensor's type in the kernels' words.
func dtypeOf(t checkpoint.Tensor) (kernel.DType, error) {
	switch t.DType {
	case checkpoint.F32:
		return kernel.F32, nil
	case checkpoint.F16:
		return kernel.F16, nil
	case checkpoint.BF16:
		return kernel.BF16, nil
	}
	return 0, fmt.Errorf("weights of type %v are not implemented", t.DType)
}

// Tie returns the names of a checkpoint's weights. A head that the configuration ties to the
// embedding, and that the checkpoint holds with other values, counts, as in
// transformers 5 (modeling_utils.py, tie_weights).
func Tie(ckpt *checkpoint.Checkpoint, spec *model.Spec) (*model.Catalogue, error) {
	c, err := spec.Catalogue(ckpt.Has)
	if err != nil || !c.Tied() || !ckpt.Has(c.HeadName()) || !ckpt.Has(c.Embedding.Name) {
		return c, err
	}
	same, err := ckpt.Same(c.Embedding.Name, c.HeadName())
	if err != nil {
		return nil, err
	}
	if !same {
		c.Untie()
	}
	return c, nil
}

// Check refuses a checkpoint whose tensors do not fit the configuration, as far as
// roles are concerned; see [model.Catalogue.Check]. The error names the tensors and,
// where that is known, their files.
func Check(ckpt *checkpoint.Checkpoint, c *model.Catalogue, roles ...model.Role) error {
	err := c.Check(ckpt.Shapes(), roles...)
	var missing *model.MissingError
	var shape *model.ShapeError
	switch {
	case errors.As(err, &missing):
		return fmt.Errorf("%w%s", err, ckpt.Explain(missing.Names))
	case errors.As(err, &shape):
		return fmt.Errorf("%s: %w", ckpt.File(shape.Name), err)
	}
	return err
}

// load does the jobs and returns the digests of a role's weights.
func (l *loader) load(ctx context.Context, ckpt *checkpoint.Checkpoint, c *model.Catalogue, role model.Role, progress Progress) (checkpoint.Digests, error) {
	loaded, err := ckpt.Load(ctx, l.jobs, workers(), progress)
	if err != nil {
		return nil, err
	}
	refs, err := c.Weights(role)
	if err != nil {
		return nil, err
	}
	return loaded.Digests(refs), nil
}

// LoadAttention loads what an attention node needs, for sequences of at most
// positions tokens. A checkpoint that does not fit the configuration is an error
// that names the tensors.
func LoadAttention(ctx context.Context, dev AttentionOps, ckpt *checkpoint.Checkpoint, spec *model.Spec, positions int, progress Progress) (*AttentionWeights, error) {
	if err := CheckAttention(dev.Properties(), spec); err != nil {
		return nil, err
	}
	c, err := Tie(ckpt, spec)
	if err != nil {
		return nil, err
	}
	if err := Check(ckpt, c, model.Role{Part: model.AttentionPart}); err != nil {
		return nil, err
	}
	l := loader{dev: dev}
	w, err := l.attention(ctx, ckpt, c, spec, progress)
	if err == nil {
		w.rope, err = newRope(dev, spec.Rope, positions)
	}
	if err != nil {
		l.free()
		return nil, err
	}
	w.vectors = l.vectors
	return w, nil
}

// attention loads the weights of an attention node.
func (l *loader) attention(ctx context.Context, ckpt *checkpoint.Checkpoint, c *model.Catalogue, spec *model.Spec, progress Progress) (*AttentionWeights, error) {
	w := &AttentionWeights{layers: make([]attentionLayer, len(c.Layers)), Untied: spec.TiedHead && !c.Tied()}
	l.matrix(&w.embedding, c.Embedding)
	if !c.Tied() {
		l.matrix(&w.head, c.Head)
	}
	l.vector(&w.finalNorm, c.FinalNorm)
	for i := range c.Layers {
		l.attentionLayer(&w.layers[i], &c.Layers[i], spec.Layers[i].Sparse)
	}
	var err error
	w.Digests, err = l.load(ctx, ckpt, c, model.Role{Part: model.AttentionPart}, progress)
	if c.Tied() {
		w.head = w.embedding
	}
	return w, err
}

func newRope(dev kernel.Attention, r model.Rope, positions int) (kernel.Rope, error) {
	inv, scale, err := Frequencies(r)
	if err != nil {
		return nil, err
	}
	table, err := dev.NewRope(inv, scale, positions)
	if err != nil {
		return nil, fmt.Errorf("rotary positions: %w", err)
	}
	return table, nil
}

func (l *loader) attentionLayer(w *attentionLayer, t *model.LayerTensors, sparse bool) {
	l.vector(&w.inputNorm, t.InputNorm)
	l.vector(&w.postNorm, t.PostNorm)
	l.matrix(&w.qkv, t.Q, t.K, t.V)
	l.vector(&w.qkvBias, t.QBias, t.KBias, t.VBias)
	l.matrix(&w.output, t.O)
	l.vector(&w.outputBias, t.OBias)
	l.vector(&w.qNorm, t.QNorm)
	l.vector(&w.kNorm, t.KNorm)
	l.vector(&w.sinks, t.Sinks)
	if sparse {
		l.matrix(&w.router, t.Router)
		l.vector(&w.routerBias, t.RouterBias)
		return
	}
	l.matrix(&w.dense.gateUp, t.Dense.Gate, t.Dense.Up)
	l.matrix(&w.dense.down, t.Dense.Down)
}
