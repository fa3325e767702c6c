package layer

import (
	"fmt"
	"math"

	"github.com/tandem-moe/tandem/kernel"
	"github.com/tandem-moe/tandem/model"
)

// Attention computes the attention part of all layers on one device.
type Attention struct {
	spec    *model.Spec
	weights *AttentionWeights
	dev     AttentionOps
	cache   *Cache
}

// NewAttention returns the attention part over loaded weights and a cache. It is an
// error, by name, where the device cannot do what the model needs.
func NewAttention(dev AttentionOps, spec *model.Spec, w *AttentionWeights, cache *Cache) (*Attention, error) {
	if err := CheckAttention(dev.Properties(), spec); err != nil {
		return nil, err
	}
	return &Attention{spec: spec, weights: w, dev: dev, cache: cache}, nil
}

// Embed starts a step: the residual stream becomes the tokens' embeddings.
func (a *Attention) Embed(r *Activations, ids []int32) {
	if len(ids) > r.capacity {
		panic(fmt.Sprintf("layer: %d rows in a micro-batch of at most %d", len(ids), r.capacity))
	}
	r.n = len(ids)
	r.Residual = kernel.MatOf(r.residual, r.n, a.spec.Hidden)
	r.Normed = kernel.MatOf(r.normed, r.n, a.spec.Hidden)
	a.dev.Embed(r.Residual, a.weights.embedding, ids)
}

// Forward computes layer l's attention part: norm, attention, residual, and for
// a sparse layer norm and router, for a dense one its MLP. pos is the position
// of each row; seqs say which sequences the rows are of.
func (a *Attention) Forward(l int, r *Activations, seqs []kernel.Sequence, pos []int32) {
	w := &a.weights.layers[l]
	a.attend(l, w, r, seqs, pos)
	a.dev.RMSNorm(r.Normed, r.Residual, w.postNorm, 1, float32(a.spec.NormEps))
	if a.spec.Layers[l].Sparse {
		a.route(w, r)
		return
	}
	a.mlp(&w.dense, r)
}

func (a *Attention) attend(l int, w *attentionLayer, r *Activations, seqs []kernel.Sequence, pos []int32) {
	d, s := a.dev, a.spec.AttentionOf(l)
	width := widthsOf(s)
	all := kernel.MatOf(r.qkv, r.n, width.all())
	keysAt, valuesAt := width.queries, width.queries+width.keys
	queries, keys, values := all.ColRange(0, keysAt), all.ColRange(keysAt, valuesAt), all.ColRange(valuesAt, width.all())

	d.RMSNorm(r.Normed, r.Residual, w.inputNorm, 1, float32(a.spec.NormEps))
	d.Linear(all, r.Normed, w.qkv, w.qkvBias)
	a.normHeads(w, s, queries, keys)
	if s.Clip > 0 {
		d.Clamp(all, float32(s.Clip))
	}
	rope := kernel.RopeParams{HeadDim: s.HeadDim, First: a.spec.Rope.First, Interleaved: a.spec.Rope.Interleaved}
	d.RoPE(queries, a.weights.rope, rope, pos)
	d.RoPE(keys, a.weights.rope, rope, pos)
	d.StoreKV(a.cache.layers[l], keys, values, seqs)
	heads, out := kernel.MatOf(r.heads, r.n, width.result), kernel.MatOf(r.hidden, r.n, a.spec.Hidden)
	d.Attention(heads, queries, a.cache.layers[l], seqs, kernel.AttentionParams{
		Heads:  s.Heads,
		Scale:  float32(1 / math.Sqrt(float64(s.HeadDim))),
		Window: a.spec.Layers[l].Window,
		Sinks:  w.sinks,
	})
	d.Linear(out, heads, w.output, w.outputBias)
	d.Add(r.Residual, r.Residual, out)
}

func (a *Attention) normHeads(w *attentionLayer, s *model.Attention, queries, keys kernel.Mat) {
	eps := float32(a.spec.NormEps)
	switch s.QKNorm {
	case model.PerHead:
		a.dev.RMSNorm(queries, queries, w.qNorm, s.Heads, eps)
		a.dev.RMSNorm(keys, keys, w.kNorm, s.KVHeads, eps)
	case model.WholeProjection:
		a.dev.RMSNorm(queries, queries, w.qNorm, 1, eps)
		a.dev.RMSNorm(keys, keys, w.kNorm, 1, eps)
	}
}

func (a *Attention) route(w *attentionLayer, r *Activations) {
	s := a.spec.Router
	logits := kernel.MatOf(r.scores, r.n, s.Experts)
	a.dev.Linear(logits, r.Normed, w.router, nil)
	p := kernel.RouterParams{
		TopK: s.TopK, Bias: w.routerBias,
		Groups: s.Groups, TopGroups: s.TopGroups, GroupBest: s.GroupBest,
		Normalize: s.Normalize, Scale: float32(s.Scale),
	}
	if s.Sigmoid {
		p.Scores = kernel.Sigmoid
	}
	a.dev.TopK(r.TopKIDs.Buffer, r.TopKWeights.Buffer, logits, p)
	r.TopKIDs.Fetch(a.dev, r.n*s.TopK)
}

func (a *Attention) mlp(w *mlp, r *Activations) {
	gateUp := kernel.MatOf(r.gateUp, r.n, 2*a.spec.DenseIntermediate)
	hidden := kernel.MatOf(r.hidden, r.n, a.spec.DenseIntermediate)
	a.dev.Linear(gateUp, r.Normed, w.gateUp, nil)
	a.dev.SwiGLU(hidden, gateUp, swiGLU(a.spec))
	a.dev.Linear(r.Normed, hidden, w.down, nil)
	a.dev.Add(r.Residual, r.Residual, r.Normed)
}

// Combine ends a sparse layer: to row r of the residual stream it adds its
// experts' results, already weighted: rows rows[i] of parts, for i from
// offsets[r] to offsets[r+1], in that order. [Experts.Sum] does without the residual
// stream.
func (a *Attention) Combine(r *Activations, parts kernel.Mat, rows, offsets []int32) {
	a.dev.Combine(r.Residual, r.Residual, parts, rows, offsets)
}

// Head writes the logits of the given rows to dst, [len(rows), vocabulary], and
// the logarithm of the sum of each row's exponentials to lse, [len(rows), 1].
// At most as many rows as the activations have room for.
func (a *Attention) Head(dst, lse kernel.Mat, r *Activations, rows []int32) {
	picked := kernel.MatOf(r.hidden, len(rows), a.spec.Hidden)
	a.dev.CopyRows(picked, nil, r.Residual, rows)
	a.dev.RMSNorm(picked, picked, a.weights.finalNorm, 1, float32(a.spec.NormEps))
	a.dev.Linear(dst, picked, a.weights.head, nil)
	a.dev.LogSumExp(lse, dst)
}
