package layer

import (
	"fmt"
	"math"

	"github.com/tandem-moe/tandem/kernel"
	"github.com/tandem-moe/tandem/model"
)

// Cache is the paged KV cache of an attention node: all layers in two buffers.
type Cache struct {
	PageTokens int
	Pages      int
	keys       kernel.Buffer
	values     kernel.Buffer
	layers     []kernel.KV
	pageLen    int // elements of one page of one layer, in each buffer
}

// CacheBytes is the memory of a page of pageTokens tokens, in bytes, keys and
// values of all layers.
func CacheBytes(spec *model.Spec, pageTokens int) int64 {
	return 2 * 4 * int64(pageElements(spec, pageTokens)) * int64(len(spec.Layers))
}

func pageElements(spec *model.Spec, pageTokens int) int {
	return pageTokens * spec.Attention.KVHeads * spec.Attention.HeadDim
}

// NewCache allocates pages pages of pageTokens tokens, a multiple of
// kernel.KVBlock.
func NewCache(dev kernel.Device, spec *model.Spec, pages, pageTokens int) (*Cache, error) {
	if pages < 1 || pageTokens < 1 || pageTokens%kernel.KVBlock != 0 {
		return nil, fmt.Errorf("KV cache: %d pages of %d tokens: want at least one page, of a multiple of %d tokens", pages, pageTokens, kernel.KVBlock)
	}
	c := &Cache{PageTokens: pageTokens, Pages: pages, pageLen: pageElements(spec, pageTokens)}
	n := c.pageLen * pages * len(spec.Layers)
	var err error
	if c.keys, err = dev.Alloc(kernel.F32, n); err != nil {
		return nil, fmt.Errorf("KV cache: keys of %d pages: %w", pages, err)
	}
	if c.values, err = dev.Alloc(kernel.F32, n); err != nil {
		dev.Free(c.keys)
		return nil, fmt.Errorf("KV cache: values of %d pages: %w", pages, err)
	}
	for l := range spec.Layers {
		c.layers = append(c.layers, kernel.KV{
			K: c.keys, V: c.values, Off: l * pages * c.pageLen,
			PageTokens: pageTokens, KVHeads: spec.Attention.KVHeads, HeadDim: spec.Attention.HeadDim,
		})
	}
	return c, nil
}

// Free gives the memory back.
func (c *Cache) Free(dev kernel.Device) {
	dev.Free(c.keys)
	dev.Free(c.values)
}

// PageBytes is the size of an exported page.
func (c *Cache) PageBytes() int { return 2 * 4 * c.pageLen * len(c.layers) }

// ReadPage copies a page to dst, which has PageBytes bytes: per layer its keys,
// then its values, as kernel.KV lays them out. The host must be able to address
// the cache, and what wrote it must have completed.
func (c *Cache) ReadPage(page int, dst []byte) {
	for l := range c.layers {
		lo, hi := c.page(l, page)
		dst = dst[copy(dst, c.keys.Bytes()[lo:hi]):]
		dst = dst[copy(dst, c.values.Bytes()[lo:hi]):]
	}
}

// WritePage enqueues to fill a page with what ReadPage gave.
func (c *Cache) WritePage(dev kernel.Device, page int, src []byte) {
	size := 4 * c.pageLen
	for l := range c.layers {
		lo, _ := c.page(l, page)
		dev.Load(c.keys, lo/4, src[:size])
		dev.Load(c.values, lo/4, src[size:2*size])
		src = src[2*size:]
	}
}

// page is where a layer's page lies, in bytes of either buffer.
func (c *Cache) page(l, page int) (lo, hi int) {
	lo = 4 * (c.layers[l].Off + page*c.pageLen)
	return lo, lo + 4*c.pageLen
}

// Rows are the activations of one micro-batch on an attention node, with room
// for a fixed number of rows.
type Rows struct {
	// Residual is the residual stream, [n, hidden]: the input of a layer's part,
	// and its output.
	Residual kernel.Mat
	// Normed is what the experts are given, [n, hidden].
	Normed kernel.Mat
	// Choice and Gate are the router's: the experts of each row, best first (I32),
	// and their weights (F32).
	Choice kernel.Buffer
	Gate   kernel.Buffer

	n, capacity int
	residual    kernel.Buffer
	normed      kernel.Buffer
	qkv         kernel.Buffer
	heads       kernel.Buffer
	scores      kernel.Buffer
	gateUp      kernel.Buffer // of dense layers
	hidden      kernel.Buffer
}

// Attention computes the attention part of all layers on one device.
type Attention struct {
	spec    *model.Spec
	weights *AttentionWeights
	dev     kernel.Device
	cache   *Cache
	params  kernel.AttentionParams
}

// NewAttention returns the attention part over loaded weights and a cache.
func NewAttention(dev kernel.Device, spec *model.Spec, w *AttentionWeights, cache *Cache) *Attention {
	return &Attention{
		spec: spec, weights: w, dev: dev, cache: cache,
		params: kernel.AttentionParams{
			Heads: spec.Attention.Heads,
			Scale: float32(1 / math.Sqrt(float64(spec.Attention.HeadDim))),
		},
	}
}

// NewRows allocates the activations of a micro-batch of at most capacity rows.
func (a *Attention) NewRows(capacity int) (*Rows, error) {
	r := &Rows{capacity: capacity}
	s, heads := a.spec, a.spec.Attention
	q, kv := heads.Heads*heads.HeadDim, heads.KVHeads*heads.HeadDim
	for _, b := range []struct {
		to    *kernel.Buffer
		dtype kernel.DType
		width int
	}{
		{&r.residual, kernel.F32, s.Hidden},
		{&r.normed, kernel.F32, s.Hidden},
		{&r.qkv, kernel.F32, q + 2*kv},
		{&r.heads, kernel.F32, q},
		{&r.hidden, kernel.F32, max(s.Hidden, s.DenseIntermediate)},
		{&r.gateUp, kernel.F32, 2 * s.DenseIntermediate},
		{&r.scores, kernel.F32, s.Router.Experts},
		{&r.Choice, kernel.I32, s.Router.TopK},
		{&r.Gate, kernel.F32, s.Router.TopK},
	} {
		var err error
		if *b.to, err = a.dev.Alloc(b.dtype, capacity*b.width); err != nil {
			a.FreeRows(r)
			return nil, fmt.Errorf("activations of %d rows: %w", capacity, err)
		}
	}
	return r, nil
}

// FreeRows gives the memory back.
func (a *Attention) FreeRows(r *Rows) {
	for _, b := range []kernel.Buffer{r.residual, r.normed, r.qkv, r.heads, r.hidden, r.gateUp, r.scores, r.Choice, r.Gate} {
		if b != nil {
			a.dev.Free(b)
		}
	}
}

// Embed starts a step: the residual stream becomes the tokens' embeddings.
func (a *Attention) Embed(r *Rows, ids []int32) {
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
// of each row; seqs say whose they are.
func (a *Attention) Forward(l int, r *Rows, seqs []kernel.Sequence, pos []int32) {
	w := &a.weights.layers[l]
	a.attend(l, w, r, seqs, pos)
	a.dev.RMSNorm(r.Normed, r.Residual, w.postNorm, 1, float32(a.spec.NormEps))
	if a.spec.Layers[l].Sparse {
		a.route(w, r)
		return
	}
	a.mlp(&w.dense, r)
}

func (a *Attention) attend(l int, w *attentionLayer, r *Rows, seqs []kernel.Sequence, pos []int32) {
	d, s := a.dev, a.spec.Attention
	q, kv := s.Heads*s.HeadDim, s.KVHeads*s.HeadDim
	all := kernel.MatOf(r.qkv, r.n, q+2*kv)
	queries, keys, values := all.ColRange(0, q), all.ColRange(q, q+kv), all.ColRange(q+kv, q+2*kv)

	d.RMSNorm(r.Normed, r.Residual, w.inputNorm, 1, float32(a.spec.NormEps))
	d.Linear(all, r.Normed, w.qkv, w.qkvBias)
	a.normHeads(w, queries, keys)
	if s.Clip > 0 {
		d.Clamp(all, float32(s.Clip))
	}
	d.RoPE(queries, s.HeadDim, a.weights.rope, pos)
	d.RoPE(keys, s.HeadDim, a.weights.rope, pos)
	d.StoreKV(a.cache.layers[l], keys, values, seqs)
	heads, out := kernel.MatOf(r.heads, r.n, q), kernel.MatOf(r.hidden, r.n, a.spec.Hidden)
	params := a.params
	params.Window = a.spec.Layers[l].Window
	d.Attention(heads, queries, a.cache.layers[l], seqs, params)
	d.Linear(out, heads, w.output, w.outputBias)
	d.Add(r.Residual, r.Residual, out)
}

func (a *Attention) normHeads(w *attentionLayer, queries, keys kernel.Mat) {
	s, eps := a.spec.Attention, float32(a.spec.NormEps)
	switch s.QKNorm {
	case model.PerHead:
		a.dev.RMSNorm(queries, queries, w.qNorm, s.Heads, eps)
		a.dev.RMSNorm(keys, keys, w.kNorm, s.KVHeads, eps)
	case model.WholeProjection:
		a.dev.RMSNorm(queries, queries, w.qNorm, 1, eps)
		a.dev.RMSNorm(keys, keys, w.kNorm, 1, eps)
	}
}

func (a *Attention) route(w *attentionLayer, r *Rows) {
	scores := kernel.MatOf(r.scores, r.n, a.spec.Router.Experts)
	a.dev.Linear(scores, r.Normed, w.router, nil)
	a.dev.TopK(r.Choice, r.Gate, scores, kernel.RouterParams{TopK: a.spec.Router.TopK, Normalize: a.spec.Router.Normalize})
}

func (a *Attention) mlp(w *mlp, r *Rows) {
	gateUp := kernel.MatOf(r.gateUp, r.n, 2*a.spec.DenseIntermediate)
	hidden := kernel.MatOf(r.hidden, r.n, a.spec.DenseIntermediate)
	a.dev.Linear(gateUp, r.Normed, w.gateUp, nil)
	a.dev.SwiGLU(hidden, gateUp)
	a.dev.Linear(r.Normed, hidden, w.down, nil)
	a.dev.Add(r.Residual, r.Residual, r.Normed)
}

// Combine ends a sparse layer: to row r of the residual stream it adds its
// experts' results, already weighted: rows rows[i] of parts, for i from
// offsets[r] to offsets[r+1], in that order.
func (a *Attention) Combine(r *Rows, parts kernel.Mat, rows, offsets []int32) {
	a.dev.Combine(r.Residual, r.Residual, parts, rows, offsets)
}

// Head writes the logits of the given rows to dst, [len(rows), vocabulary], and
// the logarithm of the sum of each row's exponentials to lse, [len(rows), 1].
// At most as many rows as the activations have room for.
func (a *Attention) Head(dst, lse kernel.Mat, r *Rows, rows []int32) {
	picked := kernel.MatOf(r.hidden, len(rows), a.spec.Hidden)
	a.dev.CopyRows(picked, nil, r.Residual, rows)
	a.dev.RMSNorm(picked, picked, a.weights.finalNorm, 1, float32(a.spec.NormEps))
	a.dev.Linear(dst, picked, a.weights.head, nil)
	a.dev.LogSumExp(lse, dst)
}
