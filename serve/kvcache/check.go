package kvcache

import "fmt"

// Check verifies the invariants that hold between calls; for tests. It takes time
// proportional to the number of pages.
func (c *Cache) Check() error {
	refs := make([]int32, len(c.pages))
	for id, s := range c.seqs {
		if err := c.checkSequence(id, s); err != nil {
			return err
		}
		for _, p := range s.pages {
			refs[p]++
		}
	}
	idle := make([]int, len(c.pages)) // how often each page is in c.free and c.lru
	for _, p := range c.free {
		idle[p]++
		if c.pages[p].keyed {
			return fmt.Errorf("free page %d has key %x", p, c.pages[p].key)
		}
	}
	n := 0
	for p := c.lru.first; p >= 0; p = c.pages[p].next {
		idle[p]++
		n++
		if !c.pages[p].keyed {
			return fmt.Errorf("cached page %d has no key", p)
		}
	}
	if n != c.lru.len {
		return fmt.Errorf("%d cached pages, counted %d", n, c.lru.len)
	}
	return c.checkPages(refs, idle)
}

func (c *Cache) checkSequence(id uint64, s *sequence) error {
	n := c.identity.PageTokens
	switch {
	case s.tokens > len(s.pages)*n:
		return fmt.Errorf("sequence %d has %d tokens in %d pages of %d", id, s.tokens, len(s.pages), n)
	case len(s.tail) != s.tokens%n:
		return fmt.Errorf("sequence %d has %d tokens, %d of them in a part of a page of %d", id, s.tokens, len(s.tail), n)
	}
	for _, p := range s.pages[s.tokens/n:] {
		if c.pages[p].refs != 1 || c.pages[p].keyed {
			return fmt.Errorf("sequence %d writes to page %d, which has %d references and keyed %v",
				id, p, c.pages[p].refs, c.pages[p].keyed)
		}
	}
	return nil
}

func (c *Cache) checkPages(refs []int32, idle []int) error {
	keyed := 0
	for p := range c.pages {
		page := &c.pages[p]
		idles := 0
		if refs[p] == 0 {
			idles = 1
		}
		switch {
		case page.refs != refs[p]:
			return fmt.Errorf("page %d counts %d references, sequences hold %d", p, page.refs, refs[p])
		case idle[p] != idles:
			return fmt.Errorf("page %d with %d references is free or cached %d times", p, refs[p], idle[p])
		case c.marks[p] != 0:
			return fmt.Errorf("page %d has mark %d", p, c.marks[p])
		case page.keyed && c.index[page.key] != int32(p):
			return fmt.Errorf("page %d has key %x, which leads to page %d", p, page.key, c.index[page.key])
		}
		if page.keyed {
			keyed++
		}
	}
	if keyed != len(c.index) {
		return fmt.Errorf("%d pages with keys, %d keys", keyed, len(c.index))
	}
	return nil
}
