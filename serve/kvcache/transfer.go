package kvcache

import (
	"errors"
	"fmt"
	"io"
)

// Memory reads and writes the runtime's memory of pages, all layers of a page at
// once. Its reads and writes happen after all steps enqueued before.
type Memory interface {
	// PageBytes is the size of a page, of all layers together.
	PageBytes() int
	// ReadPage copies a page to dst, WritePage copies src to a page; dst and src
	// are PageBytes long.
	ReadPage(page int32, dst []byte) error
	WritePage(page int32, src []byte) error
}

// Export writes the full pages of a sequence to w, from page from to the last one
// that the cache holds, and returns how many pages it wrote. The tokens are all
// those of the sequence, from its beginning.
func (c *Cache) Export(w io.Writer, m Memory, tokens []int32, from int) (int, error) {
	keys := c.identity.Keys(nil, tokens)
	keys = keys[:c.matchPages(keys, len(tokens)+1)]
	from = min(from, len(keys))
	out, err := NewWriter(w, c.identity, m.PageBytes(), c.identity.parent(keys[:from]), len(keys)-from)
	if err != nil {
		return 0, err
	}
	data := make([]byte, m.PageBytes())
	n := c.identity.PageTokens
	for i := from; i < len(keys); i++ {
		if err := m.ReadPage(c.index[keys[i]], data); err != nil {
			return i - from, fmt.Errorf("reading page %d of a sequence: %w", i, err)
		}
		if err := out.Write(tokens[i*n:(i+1)*n], data); err != nil {
			return i - from, err
		}
		c.counters.Exported++
	}
	return len(keys) - from, nil
}

// Import reads pages that [Cache.Export] wrote into the cache, for later sequences
// with their prefix, and returns how many of them the cache now holds, among them
// those that it held before. When no page is free or cached for the next one, it
// returns [ErrNoPages] and keeps the pages read so far.
func (c *Cache) Import(r io.Reader, m Memory) (int, error) {
	in, err := NewReader(r, c.identity, m.PageBytes())
	if err != nil {
		return 0, err
	}
	if p, ok := c.index[in.Parent()]; ok {
		c.hold(p)
		defer c.release(p)
	} else if in.Parent() != c.identity.Root() {
		return 0, fmt.Errorf("importing KV pages: they follow a page %x that is not here", in.Parent())
	}
	return c.importPages(in, m)
}

// importPages holds each page until all have been read, so that a page never
// evicts an earlier one of the same import.
func (c *Cache) importPages(in *Reader, m Memory) (int, error) {
	var held []int32
	defer func() {
		for i := len(held) - 1; i >= 0; i-- {
			c.release(held[i])
		}
	}()
	for {
		page, err := in.Next()
		if errors.Is(err, io.EOF) {
			return len(held), nil
		}
		if err != nil {
			return len(held), err
		}
		p, err := c.place(page, m)
		if err != nil {
			return len(held), fmt.Errorf("importing KV page %d of %d: %w", len(held), in.Pages(), err)
		}
		held = append(held, p)
	}
}

// place stores a page in the cache, unless its key is there already, and holds it.
func (c *Cache) place(page Page, m Memory) (int32, error) {
	if p, ok := c.index[page.Key]; ok {
		c.hold(p)
		return p, nil
	}
	if c.available() == 0 {
		return 0, ErrNoPages
	}
	p := c.take()
	if err := m.WritePage(p, page.Data); err != nil {
		c.release(p)
		return 0, err
	}
	c.name(p, page.Key)
	c.counters.Imported++
	return p, nil
}
