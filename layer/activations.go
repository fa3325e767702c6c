package layer

import (
	"fmt"

	"github.com/tandem-moe/tandem/kernel"
	"github.com/tandem-moe/tandem/model"
)

// Activations are those of one micro-batch on an attention node, with room for a
// fixed number of rows.
type Activations struct {
	// Residual is the residual stream, [n, hidden]: the input of a layer's part,
	// and its output.
	Residual kernel.Mat
	// Normed is the input of the experts, [n, hidden].
	Normed kernel.Mat
	// TopKIDs are the experts of each row, best first (I32, [n, topK]), which the host
	// reads once an event recorded after Forward has completed. TopKWeights are their
	// weights (F32, [n, topK]); who reads them on the host fetches them first.
	TopKIDs     kernel.Mirror
	TopKWeights kernel.Mirror

	n, capacity int
	residual    kernel.Buffer
	normed      kernel.Buffer
	qkv         kernel.Buffer
	heads       kernel.Buffer // attention's results
	scores      kernel.Buffer // the router's logits
	gateUp      kernel.Buffer // of dense layers
	hidden      kernel.Buffer
}

// NewActivations allocates the activations of a micro-batch of at most capacity rows.
func (a *Attention) NewActivations(capacity int) (*Activations, error) {
	r := &Activations{capacity: capacity}
	if err := a.allocate(r); err != nil {
		a.FreeActivations(r)
		return nil, fmt.Errorf("activations of %d rows: %w", capacity, err)
	}
	return r, nil
}

// allocate makes the buffers. If it fails, FreeActivations gives back the buffers that it
// has made.
func (a *Attention) allocate(r *Activations) (err error) {
	s := a.spec
	qkv, heads := 0, 0
	for l := range s.Layers {
		w := widthsOf(s.AttentionOf(l))
		qkv, heads = max(qkv, w.all()), max(heads, w.result)
	}
	for _, b := range []struct {
		to    *kernel.Buffer
		width int
	}{
		{&r.residual, s.Hidden},
		{&r.normed, s.Hidden},
		{&r.qkv, qkv},
		{&r.heads, heads},
		{&r.hidden, max(s.Hidden, s.DenseIntermediate)},
		{&r.gateUp, 2 * s.DenseIntermediate},
		{&r.scores, s.Router.Experts},
	} {
		if *b.to, err = a.dev.Alloc(kernel.DeviceMemory, kernel.F32, r.capacity*b.width); err != nil {
			return err
		}
	}
	if r.TopKIDs, err = kernel.NewMirror(a.dev, kernel.I32, r.capacity*s.Router.TopK); err != nil {
		return err
	}
	r.TopKWeights, err = kernel.NewMirror(a.dev, kernel.F32, r.capacity*s.Router.TopK)
	return err
}

// FreeActivations gives the memory back.
func (a *Attention) FreeActivations(r *Activations) {
	for _, b := range []kernel.Buffer{r.residual, r.normed, r.qkv, r.heads, r.hidden, r.gateUp, r.scores} {
		if b != nil {
			a.dev.Free(b)
		}
	}
	r.TopKIDs.Free(a.dev)
	r.TopKWeights.Free(a.dev)
}

// widths are the columns of a layer's queries, keys, values and results of attention.
type widths struct{ queries, keys, values, result int }

func widthsOf(a *model.Attention) widths {
	return widths{
		queries: a.Heads * a.HeadDim, keys: a.KVHeads * a.HeadDim,
		values: a.KVHeads * a.ValueWidth(), result: a.Heads * a.ValueWidth(),
	}
}

// all is the columns of queries, keys and values beside each other.
func (w widths) all() int { return w.queries + w.keys + w.values }
