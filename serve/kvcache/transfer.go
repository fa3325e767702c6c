package kvcache

import (
	"errors"
	"fmt"
	"io"
)

// Memory is where pages are: the runtime's, for all layers of a page. It orders
// its reads and writes after the steps that have been enqueued.
type Memory interface {
	// PageBytes is the size of a page.
	PageBytes() int
	// ReadPage copies a page to dst, WritePage src to a page; both are
	// PageBytes long.
	ReadPage(page int32, dst []byte) error
	WritePage(page int32, src []byte) error
}

// Export writes the full pages of a sequence that the cache holds, from page
// from on, and returns how many they are. The tokens are the sequence's, from
// its beginning.
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

// Import reads pages into the cache, where sequences with their prefix find
// them, and returns how many of them the cache now holds. Pages that it held
// already are passed over. Where no page can be had for the rest it returns
// [ErrNoPages]; what came before stays.
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

// importPages holds each page until all have come, so that none evicts another.
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

// place gives a page to the cache and holds it.
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
