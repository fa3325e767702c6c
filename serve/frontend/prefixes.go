package frontend

import (
	"github.com/tandem-moe/tandem/serve"
	"github.com/tandem-moe/tandem/serve/kvcache"
)

// prefixes is what the front end knows of a worker's prefix cache: the pages of
// the prompts that it has been given, as many as the cache holds, oldest
// forgotten first. It is a guess: the worker evicts as it must.
type prefixes struct {
	identity kvcache.Identity
	known    map[kvcache.Key]int // how often the ring has it
	ring     []kvcache.Key       // grows up to size
	size     int
	next     int
}

// maxPrefixes bounds what the front end remembers of a worker: at 24 bytes a page, and
// as much again for the map, some 100 MB.
const maxPrefixes = 1 << 20

func newPrefixes(o serve.Offer) *prefixes {
	return &prefixes{
		identity: kvcache.Identity{PageTokens: o.PageTokens},
		known:    map[kvcache.Key]int{},
		size:     min(o.CacheTokens/o.PageTokens, maxPrefixes),
	}
}

// match is how many tokens of a prompt are in pages that the worker has seen.
func (p *prefixes) match(prompt []int32) int {
	n := 0
	for _, k := range p.identity.Keys(nil, prompt) {
		if p.known[k] == 0 {
			break
		}
		n += p.identity.PageTokens
	}
	return min(n, len(prompt)-1)
}

// add notes a prompt's pages.
func (p *prefixes) add(prompt []int32) {
	for _, k := range p.identity.Keys(nil, prompt) {
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
