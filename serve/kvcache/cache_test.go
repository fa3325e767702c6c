package kvcache

import (
	"fmt"
	"slices"
	"testing"

	"github.com/stretchr/testify/require"
	"pgregory.net/rapid"
)

var testID = Identity{Model: "m", Numerics: "f32", PageTokens: 4}

func newCache(t require.TestingT, pages int) *Cache {
	c, err := New(testID, pages)
	require.NoError(t, err)
	return c
}

// upTo returns the tokens 0 … n−1.
func upTo(n int) []int32 {
	tokens := make([]int32, n)
	for i := range tokens {
		tokens[i] = int32(i)
	}
	return tokens
}

// run acquires, commits and frees a sequence.
func run(t *testing.T, c *Cache, id uint64, tokens []int32) (cached int) {
	t.Helper()
	cached, err := c.Acquire(id, testID.Keys(nil, tokens), len(tokens))
	require.NoError(t, err)
	c.Commit(id, tokens[cached:])
	c.Free(id)
	require.NoError(t, c.Check())
	return cached
}

func TestKeysDependOnAllThatPagesDependOn(t *testing.T) {
	tokens := upTo(12)
	keys := testID.Keys(nil, tokens)
	require.Len(t, keys, 3)
	require.Equal(t, keys, testID.Keys(testID.Keys(nil, tokens[:7]), tokens), "in two parts")
	require.Len(t, testID.Keys(nil, tokens[:11]), 2)
	seen := map[Key]string{testID.Root(): "root"}
	note := func(k Key, what string) {
		require.Empty(t, seen[k], what)
		seen[k] = what
	}
	for i, k := range keys {
		note(k, fmt.Sprint(i))
	}
	changed := slices.Clone(tokens)
	changed[1]++
	for i, k := range testID.Keys(nil, changed) {
		note(k, fmt.Sprint("changed ", i))
	}
	for _, id := range []Identity{{"n", "f32", 4}, {"m", "bf16", 4}, {"m", "f32", 3}, {"mf", "32", 4}} {
		note(id.Keys(nil, tokens)[0], fmt.Sprint(id))
	}
}

func TestPrefixIsReused(t *testing.T) {
	c := newCache(t, 8)
	tokens := upTo(11)
	require.Equal(t, 0, run(t, c, 1, tokens))
	require.Equal(t, 8, run(t, c, 2, tokens))
	require.Equal(t, 4, run(t, c, 3, append(upTo(5), 9, 9, 9, 9)), "up to where they part")
	require.Equal(t, 4, run(t, c, 4, upTo(8)), "the last token is computed")
	require.Equal(t, 8, c.Match(testID.Keys(nil, upTo(9)), 9))
	require.Equal(t, uint64(16), c.Usage().ReusedTokens)

	_, err := c.Acquire(5, nil, 11)
	require.NoError(t, err)
	require.Equal(t, uint64(16), c.Usage().ReusedTokens, "without keys nothing is reused")
}

func TestPagesAreKeyedOnlyOnceTheyAreComputed(t *testing.T) {
	c := newCache(t, 4)
	tokens := upTo(9)
	keys := testID.Keys(nil, tokens)
	_, err := c.Acquire(1, keys, 9)
	require.NoError(t, err)
	for n, want := range []int{0, 0, 0, 0, 4, 4, 4, 4, 8} {
		require.Equal(t, want, c.Match(keys, 9), "after %d tokens", n)
		c.Commit(1, tokens[n:n+1])
	}
	require.Panics(t, func() { c.Commit(1, upTo(4)) }, "beyond its room")
}

func TestEvictionTakesTheEndOfTheOldestPrefix(t *testing.T) {
	c := newCache(t, 4)
	a, b := upTo(8), []int32{50, 51, 52, 53}
	run(t, c, 1, a)
	run(t, c, 2, b)
	require.Equal(t, Usage{Free: 1, Cached: 3}, c.Usage())
	_, err := c.Acquire(3, nil, 8)
	require.NoError(t, err)
	require.Equal(t, Usage{Cached: 2, Referenced: 2, Counters: Counters{Evictions: 1}}, c.Usage())
	require.Equal(t, 4, c.Match(testID.Keys(nil, a), 9), "its second page went")
	require.Equal(t, 4, c.Match(testID.Keys(nil, b), 9))
}

func TestShortOfPages(t *testing.T) {
	c := newCache(t, 4)
	tokens := upTo(9)
	keys := testID.Keys(nil, tokens)
	_, err := c.Acquire(1, keys, 9)
	require.NoError(t, err)
	c.Commit(1, tokens[:8])
	_, err = c.Acquire(2, nil, 5)
	require.ErrorIs(t, err, ErrNoPages)
	require.Equal(t, 1, c.Short(2, nil, 5, nil))
	cached, err := c.Acquire(2, keys, 12)
	require.NoError(t, err)
	require.Equal(t, 8, cached)
	require.ErrorIs(t, c.Extend(1, 13), ErrNoPages)
	require.NoError(t, c.Extend(1, 12), "there is room")
	require.Equal(t, 0, c.Short(1, nil, 16, []uint64{2}), "the victim's own page")
	require.Equal(t, -3, c.Short(3, nil, 4, []uint64{1, 2}), "shared pages go with the last that holds them")
	require.Equal(t, -1, c.Short(3, keys, 12, []uint64{1, 2}), "pages that are reused are not there to take")
	require.NoError(t, c.Check())
}

func TestNewRefuses(t *testing.T) {
	for _, f := range []func() (*Cache, error){
		func() (*Cache, error) { return New(testID, 0) },
		func() (*Cache, error) { return New(Identity{}, 1) },
		func() (*Cache, error) { return New(Identity{Model: string(make([]byte, 256)), PageTokens: 1}, 1) },
	} {
		_, err := f()
		require.Error(t, err)
	}
}

// slowCache is the reference for [Cache]: the same policy with whole prefixes in
// place of keys, answering each question by a walk over all pages.
type slowCache struct {
	pages []slowPage
	seqs  map[uint64]*slowSeq
	clock int
}

type slowPage struct {
	prefix string // the prefix whose end the page holds; "" for none
	used   int    // when the last sequence released it
}

type slowSeq struct {
	pages  []int
	tokens []int32
}

func (s *slowCache) refs(p int) (n int) {
	for _, q := range s.seqs {
		if slices.Contains(q.pages, p) {
			n++
		}
	}
	return n
}

func (s *slowCache) find(prefix string) int {
	return slices.IndexFunc(s.pages, func(p slowPage) bool { return p.prefix == prefix })
}

func (s *slowCache) match(tokens []int32) (pages []int) {
	for n := 4; n < len(tokens); n += 4 {
		p := s.find(fmt.Sprint(tokens[:n]))
		if p < 0 {
			break
		}
		pages = append(pages, p)
	}
	return pages
}

// takeable returns the pages that no sequence holds: those without a prefix first,
// then the others, least recently used first.
func (s *slowCache) takeable(except []int) (pages []int) {
	for p := range s.pages {
		if s.refs(p) == 0 && !slices.Contains(except, p) {
			pages = append(pages, p)
		}
	}
	slices.SortStableFunc(pages, func(a, b int) int {
		if s.pages[a].prefix == "" || s.pages[b].prefix == "" {
			return len(s.pages[a].prefix) - len(s.pages[b].prefix)
		}
		return s.pages[a].used - s.pages[b].used
	})
	return pages
}

func (s *slowCache) extend(id uint64, n int, matched []int) bool {
	q := s.seqs[id]
	if q == nil {
		q = &slowSeq{pages: matched}
	}
	want := (n+3)/4 - len(q.pages)
	take := s.takeable(q.pages)
	if want > len(take) {
		return false
	}
	s.seqs[id] = q
	for i := range want {
		s.pages[take[i]].prefix = ""
		q.pages = append(q.pages, take[i])
	}
	return true
}

func (s *slowCache) commit(id uint64, token int32) {
	q := s.seqs[id]
	q.tokens = append(q.tokens, token)
	prefix := fmt.Sprint(q.tokens)
	if len(q.tokens)%4 == 0 && s.find(prefix) < 0 {
		s.pages[q.pages[len(q.tokens)/4-1]].prefix = prefix
	}
}

func (s *slowCache) free(id uint64) {
	pages := s.seqs[id].pages
	delete(s.seqs, id)
	for i := len(pages) - 1; i >= 0; i-- {
		s.clock++
		s.pages[pages[i]].used = s.clock
	}
}

// pair runs both caches on the same operations. memory stands for a node's memory:
// for each token's place, the prefix from which its keys and values were computed.
type pair struct {
	fast   *Cache
	slow   *slowCache
	tokens map[uint64][]int32 // all tokens of live sequences, computed or not
	memory [][4]string
	nextID uint64
}

func (p *pair) live(t *rapid.T) uint64 {
	if len(p.tokens) == 0 {
		t.Skip("no sequence")
	}
	ids := []uint64{}
	for id := range p.tokens {
		ids = append(ids, id)
	}
	slices.Sort(ids)
	return rapid.SampledFrom(ids).Draw(t, "id")
}

func (p *pair) acquire(t *rapid.T) {
	// Few different tokens make common prefixes likely.
	tokens := rapid.SliceOfN(rapid.Int32Range(0, 1), 1, 18).Draw(t, "tokens")
	var keys []Key
	var matched []int
	if rapid.IntRange(0, 3).Draw(t, "reuse") > 0 {
		keys, matched = testID.Keys(nil, tokens), p.slow.match(tokens)
	}
	p.nextID++
	short := p.fast.Short(p.nextID, keys, len(tokens), nil)
	cached, err := p.fast.Acquire(p.nextID, keys, len(tokens))
	ok := p.slow.extend(p.nextID, len(tokens), matched)
	require.Equal(t, ok, err == nil)
	require.Equal(t, ok, short <= 0)
	if !ok {
		return
	}
	require.Equal(t, 4*len(matched), cached)
	p.slow.seqs[p.nextID].tokens = slices.Clone(tokens[:cached])
	p.tokens[p.nextID] = tokens
}

func (p *pair) extend(t *rapid.T) {
	id := p.live(t)
	more := rapid.SliceOfN(rapid.Int32Range(0, 1), 1, 6).Draw(t, "more")
	n := len(p.tokens[id]) + len(more)
	err := p.fast.Extend(id, n)
	require.Equal(t, p.slow.extend(id, n, nil), err == nil)
	if err == nil {
		p.tokens[id] = append(p.tokens[id], more...)
	}
}

func (p *pair) commit(t *rapid.T) {
	id := p.live(t)
	done := len(p.slow.seqs[id].tokens)
	n := rapid.IntRange(0, len(p.tokens[id])-done).Draw(t, "n")
	for i := done; i < done+n; i++ {
		p.memory[p.fast.Pages(id)[i/4]][i%4] = fmt.Sprint(p.tokens[id][:i+1])
		p.slow.commit(id, p.tokens[id][i])
	}
	p.fast.Commit(id, p.tokens[id][done:done+n])
}

func (p *pair) freeOne(t *rapid.T) {
	id := p.live(t)
	p.fast.Free(id)
	p.slow.free(id)
	delete(p.tokens, id)
}

func (p *pair) victims(t *rapid.T) {
	id := p.live(t)
	var victims []uint64
	for v := range p.tokens {
		if v != id && rapid.Bool().Draw(t, "victim") {
			victims = append(victims, v)
		}
	}
	n := rapid.IntRange(1, 40).Draw(t, "n")
	short := p.fast.Short(id, nil, n, victims)
	without := &slowCache{pages: p.slow.pages, seqs: map[uint64]*slowSeq{}}
	for q, s := range p.slow.seqs {
		if !slices.Contains(victims, q) {
			without.seqs[q] = s
		}
	}
	want := (n+3)/4 - len(p.slow.seqs[id].pages)
	require.Equal(t, want-len(without.takeable(nil)), short)
}

// check compares what both caches show, and that each sequence finds in its pages
// the keys and values of its own prefix.
func (p *pair) check(t *rapid.T) {
	require.NoError(t, p.fast.Check())
	for id := range p.tokens {
		for i := range p.slow.seqs[id].tokens {
			require.Equal(t, fmt.Sprint(p.tokens[id][:i+1]), p.memory[p.fast.Pages(id)[i/4]][i%4])
		}
	}
	usage := p.fast.Usage()
	var want Usage
	for i, page := range p.slow.pages {
		switch {
		case p.slow.refs(i) > 0:
			want.Referenced++
		case page.prefix != "":
			want.Cached++
		default:
			want.Free++
		}
	}
	want.Counters = usage.Counters
	require.Equal(t, want, usage)
}

func TestCacheEqualsTheSlowVersion(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		n := rapid.IntRange(1, 12).Draw(t, "pages")
		p := &pair{
			fast: newCache(t, n), slow: &slowCache{pages: make([]slowPage, n), seqs: map[uint64]*slowSeq{}},
			tokens: map[uint64][]int32{}, memory: make([][4]string, n),
		}
		t.Repeat(map[string]func(*rapid.T){
			"acquire": p.acquire, "extend": p.extend, "commit": p.commit, "commit2": p.commit,
			"free": p.freeOne, "victims": p.victims, "": p.check,
		})
	})
}
