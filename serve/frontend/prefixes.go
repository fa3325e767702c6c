package frontend

import (
	"github.com/tandem-moe/tandem/serve"
	"github.com/tandem-moe/tandem/serve/kvcache"
)

// prefixes is what the front end knows of a worker's prefix cache: the pages of
// the prompts that it has been given, as many as the cache holds, oldest
// forgotten first. It is a guess: the worker evicts as it must.
type prefixes struct {
	pageTokens int
	known      map[kvcache.Key]int // how often the ring has it
	ring       []kvcache.Key       // grows up to size
	size       int
	next       int
}

// maxPrefixes bounds what the front end remembers of a worker: at 24 bytes a page, and
// as much again for the map, some 100 MB.
const maxPrefixes = 1 << 20

func newPrefixes(o serve.Offer) *prefixes {
	return &prefixes{
		pageTokens: o.PageTokens,
		known:      map[kvcache.Key]int{},
		size:       min(o.CacheTokens/o.PageTokens, maxPrefixes),
	}
}

// match is how many of a prompt's tokens are in pages that the worker has seen.
func (p *prefixes) match(keys promptKeys, tokens int) int {
	n := 0
	for _, k := range keys[p.pageTokens] {
		if p.known[k] == 0 {
			break
		}
		n += p.pageTokens
	}
	return min(n, tokens-1)
}

// add notes a prompt's pages.
func (p *prefixes) add(keys promptKeys) {
	for _, k := range keys[p.pageTokens] {
		p.put(k)
	}
}

func (p *prefixes) put(k kvcache.Key) {
	p.known[k]++
	if len(p.ring) < p.size {
		p.ring = append(p.ring, k)
		return
	}
	old := p.ring[p.next]
	if p.known[old]--; p.known[old] == 0 {
		delete(p.known, old)
	}
	p.ring[p.next] = k
	p.next = (p.next + 1) % len(p.ring)
}

// promptKeys are the keys of a prompt's full pages, by the tokens of a page. They
// stay with the request, so that a prompt is hashed once, however many workers are
// asked about it and however often it moves; and that is before the front end's lock
// is taken, which every token of every request passes: 128 Ki tokens take 20 ms.
type promptKeys map[int][]kvcache.Key

// keysOf hashes a prompt for each size of page.
func keysOf(prompt []int32, pageTokens []int) promptKeys {
	keys := promptKeys{}
	for _, n := range pageTokens {
		if keys[n] == nil {
			keys[n] = kvcache.Identity{PageTokens: n}.Keys([]kvcache.Key{}, prompt)
		}
	}
	return keys
}
