package layer

import (
	"fmt"

	"github.com/tandem-moe/tandem/kernel"
	"github.com/tandem-moe/tandem/model"
)

// Cache is the paged KV cache of an attention node: the keys of all layers in one
// buffer, and the values in another. Layers follow each other, each with all its
// pages; layers may differ in their heads and widths.
type Cache struct {
	PageTokens int
	Pages      int
	keys       kernel.Buffer
	values     kernel.Buffer
	layers     []kernel.KV
}

// CacheBytes is the memory of a page of pageTokens tokens, in bytes, keys and
// values of all layers.
func CacheBytes(spec *model.Spec, pageTokens int) int64 {
	var elements int64
	for l := range spec.Layers {
		a := spec.AttentionOf(l)
		elements += int64(pageTokens) * int64(a.KVHeads) * int64(a.HeadDim+a.ValueWidth())
	}
	return elements * int64(kernel.F32.Bytes(1))
}

// NewCache allocates pages pages of pageTokens tokens, a multiple of
// kernel.KVBlock.
func NewCache(dev kernel.Memory, spec *model.Spec, pages, pageTokens int) (*Cache, error) {
	if pages < 1 || pageTokens < 1 || pageTokens%kernel.KVBlock != 0 {
		return nil, fmt.Errorf("KV cache: %d pages of %d tokens: want at least one page, of a multiple of %d tokens", pages, pageTokens, kernel.KVBlock)
	}
	c := &Cache{PageTokens: pageTokens, Pages: pages}
	keys, values := c.place(spec)
	var err error
	if c.keys, err = dev.Alloc(kernel.DeviceMemory, kernel.F32, keys); err != nil {
		return nil, fmt.Errorf("KV cache: keys of %d pages: %w", pages, err)
	}
	if c.values, err = dev.Alloc(kernel.DeviceMemory, kernel.F32, values); err != nil {
		dev.Free(c.keys)
		return nil, fmt.Errorf("KV cache: values of %d pages: %w", pages, err)
	}
	for l := range c.layers {
		c.layers[l].K, c.layers[l].V = c.keys, c.values
	}
	return c, nil
}

// place says where each layer's pages lie, and returns the elements of all keys and of
// all values.
func (c *Cache) place(spec *model.Spec) (keys, values int) {
	for l := range spec.Layers {
		a := spec.AttentionOf(l)
		kv := kernel.KV{
			KeyOff: keys, ValueOff: values,
			PageTokens: c.PageTokens, Heads: a.KVHeads, KeyDim: a.HeadDim, ValueDim: a.ValueWidth(),
		}
		c.layers = append(c.layers, kv)
		keys += c.Pages * keysOf(kv)
		values += c.Pages * valuesOf(kv)
	}
	return keys, values
}

// keysOf and valuesOf are the elements of a page.
func keysOf(kv kernel.KV) int   { return kv.PageTokens * kv.Heads * kv.KeyDim }
func valuesOf(kv kernel.KV) int { return kv.PageTokens * kv.Heads * kv.ValueDim }

// Free gives the memory back.
func (c *Cache) Free(dev kernel.Memory) {
	dev.Free(c.keys)
	dev.Free(c.values)
}

// PageBytes is the size of an exported page.
func (c *Cache) PageBytes() int {
	n := 0
	for _, kv := range c.layers {
		n += keysOf(kv) + valuesOf(kv)
	}
	return kernel.F32.Bytes(n)
}

// part is one layer's keys or values of a page.
type part struct {
	buffer   kernel.Buffer
	off      int // elements
	elements int
}

// parts lists a page's parts as an export has them: per layer its keys, then its
// values, each as kernel.KV lays them out.
func (c *Cache) parts(page int) (list []part) {
	for _, kv := range c.layers {
		k, v := keysOf(kv), valuesOf(kv)
		list = append(list, part{c.keys, kv.KeyOff + page*k, k}, part{c.values, kv.ValueOff + page*v, v})
	}
	return list
}

// ReadPage enqueues a copy of a page to dst, which has PageBytes bytes. It is there
// once an event recorded afterwards has completed.
func (c *Cache) ReadPage(dev kernel.Memory, page int, dst []byte) {
	for _, p := range c.parts(page) {
		n := kernel.F32.Bytes(p.elements)
		dev.Read(dst[:n], p.buffer, p.off)
		dst = dst[n:]
	}
}

// WritePage enqueues a copy to a page of bytes that ReadPage gave.
func (c *Cache) WritePage(dev kernel.Memory, page int, src []byte) {
	for _, p := range c.parts(page) {
		n := kernel.F32.Bytes(p.elements)
		dev.Load(p.buffer, p.off, src[:n])
		src = src[n:]
	}
}
