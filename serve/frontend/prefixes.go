package frontend

import (
	"github.com/tandem-moe/tandem/serve"
	"github.com/tandem-moe/tandem/serve/kvcache"
)

// prefixes estimates a worker's prefix cache: it remembers the pages of the prompts
// given to the worker, as many as the cache holds, and forgets the oldest first.
// The worker may have evicted other pages.
type prefixes struct {
	pageTokens int
	known      map[kvcache.Key]int // how often each key is in ring
	ring       []kvcache.Key       // keys in the order given, at most size of them
	size       int                 // in pages
	next       int                 // index of the oldest key, once ring is full
}

// maxPrefixes bounds how many pages the front end remembers of a worker: at some 70
// bytes a page, for ring and known together, they take 70 MB.
const maxPrefixes = 1 << 20

func newPrefixes(o serve.Offer) *prefixes {
	return &prefixes{
		pageTokens: o.PageTokens,
		known:      map[kvcache.Key]int{},
		size:       min(o.CacheTokens/o.PageTokens, maxPrefixes),
	}
}

// match is how many of a prompt's first tokens are in remembered pages.
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

// add remembers a prompt's pages.
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

// promptKeys maps a number of tokens per page to the keys of a prompt's full pages
// of that size. The keys stay with the request, so that a prompt is hashed once,
// however many workers are compared and however often the request moves. Submit
// hashes before it takes the front end's lock, which every token's delivery needs
// too: 128 Ki tokens take 20 ms.
type promptKeys map[int][]kvcache.Key

// keysOf computes the keys of a prompt's full pages for each page size.
func keysOf(prompt []int32, pageTokens []int) promptKeys {
	keys := promptKeys{}
	for _, n := range pageTokens {
		if keys[n] == nil {
			keys[n] = kvcache.Identity{PageTokens: n}.Keys([]kvcache.Key{}, prompt)
		}
	}
	return keys
}
