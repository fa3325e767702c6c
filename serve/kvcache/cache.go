package kvcache

import (
	"errors"
	"fmt"
)

// ErrNoPages says that fewer pages are free or cached than a sequence needs. The
// call that returns it has changed nothing.
var ErrNoPages = errors.New("not enough pages")

// Cache is the page manager of one attention node.
type Cache struct {
	identity Identity
	pages    []page
	free     []int32 // a stack
	lru      list    // cached pages, least recently used first
	index    map[Key]int32
	seqs     map[uint64]*sequence
	marks    []int32 // per page: how many victims hold it; zero between calls
	buf      []byte  // scratch for keys
	counters Counters
}

// page is the state of one page.
type page struct {
	key        Key
	keyed      bool
	refs       int32 // number of sequences that hold it
	prev, next int32 // its neighbours in the list of cached pages
}

// sequence is what the cache knows of one sequence.
type sequence struct {
	pages  []int32
	tokens int     // number of tokens whose keys and values are in the pages
	parent Key     // key of the last full page
	tail   []int32 // the tokens after the last full page
}

// Counters count what has happened since the start.
type Counters struct {
	// ReusedTokens counts tokens found in the cache instead of computed.
	ReusedTokens uint64
	// Evictions counts cached pages that were given to another use.
	Evictions uint64
	// Exported counts pages written by [Cache.Export], Imported new pages read by
	// [Cache.Import].
	Exported, Imported uint64
}

// Usage says how many pages are in each state.
type Usage struct {
	Free, Cached, Referenced int
	Counters
}

// New makes a cache of empty pages.
func New(id Identity, pages int) (*Cache, error) {
	switch {
	case pages < 1:
		return nil, fmt.Errorf("kvcache: %d pages", pages)
	case id.PageTokens < 1:
		return nil, fmt.Errorf("kvcache: pages of %d tokens", id.PageTokens)
	case len(id.Model) > 255 || len(id.Numerics) > 255:
		return nil, fmt.Errorf("kvcache: names of %d and %d bytes, the limit is 255", len(id.Model), len(id.Numerics))
	}
	c := &Cache{
		identity: id,
		pages:    make([]page, pages),
		lru:      newList(),
		index:    make(map[Key]int32),
		seqs:     make(map[uint64]*sequence),
		marks:    make([]int32, pages),
	}
	for p := pages - 1; p >= 0; p-- {
		c.free = append(c.free, int32(p))
	}
	return c, nil
}

// Identity returns what all pages have in common.
func (c *Cache) Identity() Identity { return c.identity }

// Tokens is how many tokens all pages together hold.
func (c *Cache) Tokens() int { return len(c.pages) * c.identity.PageTokens }

// Usage counts the pages in each state.
func (c *Cache) Usage() Usage {
	return Usage{
		Free: len(c.free), Cached: c.lru.len,
		Referenced: len(c.pages) - c.available(),
		Counters:   c.counters,
	}
}

// available is how many pages no sequence holds.
func (c *Cache) available() int { return len(c.free) + c.lru.len }

// pagesFor is how many pages n tokens need.
func (c *Cache) pagesFor(n int) int {
	return (n + c.identity.PageTokens - 1) / c.identity.PageTokens
}

// Match returns how many of a sequence's first tokens the cache holds, given the
// keys of its full pages and its length n: whole pages, never including the last
// token.
func (c *Cache) Match(keys []Key, n int) int {
	return c.matchPages(keys, n) * c.identity.PageTokens
}

func (c *Cache) matchPages(keys []Key, n int) int {
	limit := min(len(keys), (n-1)/c.identity.PageTokens)
	for i := range limit {
		if _, ok := c.index[keys[i]]; !ok {
			return i
		}
	}
	return limit
}

// Acquire starts a sequence with room for n ≥ 1 tokens, and returns how many of
// its first tokens are in the cache already (see [Cache.Match]): the sequence
// shares their pages. Without keys nothing is reused. Error: [ErrNoPages].
func (c *Cache) Acquire(id uint64, keys []Key, n int) (cached int, err error) {
	if c.seqs[id] != nil {
		panic(fmt.Sprintf("kvcache: sequence %d exists", id))
	}
	if c.Short(id, keys, n, nil) > 0 {
		return 0, ErrNoPages
	}
	s := &sequence{}
	matched := keys[:c.matchPages(keys, n)]
	for _, k := range matched {
		c.hold(c.index[k])
		s.pages = append(s.pages, c.index[k])
	}
	s.tokens = len(matched) * c.identity.PageTokens
	s.parent = c.identity.parent(matched)
	c.seqs[id] = s
	c.counters.ReusedTokens += uint64(s.tokens)
	c.grow(s, n)
	return s.tokens, nil
}

// Extend gives a sequence room for n tokens in all. Error: [ErrNoPages].
func (c *Cache) Extend(id uint64, n int) error {
	if c.Short(id, nil, n, nil) > 0 {
		return ErrNoPages
	}
	c.grow(c.seq(id), n)
	return nil
}

func (c *Cache) grow(s *sequence, n int) {
	for len(s.pages) < c.pagesFor(n) {
		s.pages = append(s.pages, c.take())
	}
}

// Commit says that the keys and values of a sequence's next tokens are in its
// pages. Other sequences may share a page once Commit has filled it, so do not call
// Commit before the step that computes the tokens has ended.
func (c *Cache) Commit(id uint64, tokens []int32) {
	s := c.seq(id)
	if s.tokens+len(tokens) > len(s.pages)*c.identity.PageTokens {
		panic(fmt.Sprintf("kvcache: sequence %d has %d tokens and commits %d more in %d pages of %d",
			id, s.tokens, len(tokens), len(s.pages), c.identity.PageTokens))
	}
	for _, t := range tokens {
		s.tail = append(s.tail, t)
		s.tokens++
		if len(s.tail) == c.identity.PageTokens {
			c.fill(s)
		}
	}
}

// fill gives a key to the page that the sequence has just filled, unless another
// page has that key (two sequences computed the same prefix at a time). A page
// without a key stays private.
func (c *Cache) fill(s *sequence) {
	s.parent, c.buf = next(s.parent, s.tail, c.buf)
	s.tail = s.tail[:0]
	c.name(s.pages[s.tokens/c.identity.PageTokens-1], s.parent)
}

func (c *Cache) name(p int32, k Key) {
	if _, ok := c.index[k]; ok {
		return
	}
	c.index[k] = p
	c.pages[p].key, c.pages[p].keyed = k, true
}

// Free ends a sequence. Its pages that have keys stay in the cache; the end of the
// prefix will be evicted before its beginning.
func (c *Cache) Free(id uint64) {
	s := c.seq(id)
	delete(c.seqs, id)
	for i := len(s.pages) - 1; i >= 0; i-- {
		c.release(s.pages[i])
	}
}

// Pages returns a sequence's pages in the order of its tokens; the slice is valid
// until the sequence's next Extend or Free.
func (c *Cache) Pages(id uint64) []int32 { return c.seq(id).pages }

// Room is how many tokens a sequence's pages hold.
func (c *Cache) Room(id uint64) int { return len(c.seq(id).pages) * c.identity.PageTokens }

// Short is how many pages too few there would be for sequence id to have room for n
// tokens after the victims were freed; zero or less means enough. A new sequence
// would reuse the pages that its keys match.
func (c *Cache) Short(id uint64, keys []Key, n int, victims []uint64) int {
	want := c.pagesFor(n)
	if s := c.seqs[id]; s != nil {
		return want - len(s.pages) - c.availableWithout(victims, nil)
	}
	matched := keys[:c.matchPages(keys, n)]
	return want - len(matched) - c.availableWithout(victims, matched)
}

// availableWithout counts the pages that only victims hold or no sequence at all,
// leaving out the pages with the given keys.
func (c *Cache) availableWithout(victims []uint64, except []Key) int {
	n := c.available()
	c.mark(victims, 1, func(p int32) {
		if c.marks[p] == c.pages[p].refs {
			n++
		}
	})
	for _, k := range except {
		if p := c.index[k]; c.marks[p] == c.pages[p].refs {
			n--
		}
	}
	c.mark(victims, -1, func(int32) {})
	return n
}

// mark adds by to the marks of the victims' pages, once per victim, and visits each
// page afterwards.
func (c *Cache) mark(victims []uint64, by int32, visit func(p int32)) {
	for _, v := range victims {
		for _, p := range c.seq(v).pages {
			c.marks[p] += by
			visit(p)
		}
	}
}

func (c *Cache) seq(id uint64) *sequence {
	s := c.seqs[id]
	if s == nil {
		panic(fmt.Sprintf("kvcache: no sequence %d", id))
	}
	return s
}

// take gives out a page that no sequence holds; there must be one.
func (c *Cache) take() int32 {
	var p int32
	if n := len(c.free); n > 0 {
		p = c.free[n-1]
		c.free = c.free[:n-1]
	} else {
		p = c.evict()
	}
	c.pages[p].refs = 1
	return p
}

func (c *Cache) evict() int32 {
	p := c.lru.first
	if p < 0 {
		panic("kvcache: no page to evict")
	}
	c.lru.remove(c.pages, p)
	delete(c.index, c.pages[p].key)
	c.pages[p].keyed = false
	c.counters.Evictions++
	return p
}

// hold adds a reference to a page that has a key.
func (c *Cache) hold(p int32) {
	if c.pages[p].refs == 0 {
		c.lru.remove(c.pages, p)
	}
	c.pages[p].refs++
}

// release takes a reference from a page.
func (c *Cache) release(p int32) {
	c.pages[p].refs--
	switch {
	case c.pages[p].refs > 0:
	case c.pages[p].keyed:
		c.lru.push(c.pages, p)
	default:
		c.free = append(c.free, p)
	}
}
