package batch

import (
	"fmt"
	"slices"
	"sort"

	"github.com/tandem-moe/tandem/serve/kvcache"
)

// want is what a sequence asks of the cache: room for all its tokens, partly in
// the cached pages that match keys, and so many spare pages free afterwards.
type want struct {
	*sequence
	keys  []kvcache.Key
	spare int
}

// missing is how many pages the cache would be short of after preempting the
// victims; zero or less means enough.
func (b *Batcher) missing(w want, victims []uint64) int {
	return b.cache.Short(w.id, w.keys, len(w.tokens), victims) + w.spare
}

// extend gives a running sequence room for all its tokens, or returns false.
func (b *Batcher) extend(s *sequence) bool {
	if b.cache.Room(s.id) < len(s.tokens) {
		if !b.secure(want{sequence: s}) {
			return false
		}
		if err := b.cache.Extend(s.id, len(s.tokens)); err != nil {
			panic(fmt.Sprintf("batch: pages for sequence %d, which were there: %v", s.id, err))
		}
	}
	return true
}

// secure makes the cache able to give a sequence what it wants, by preempting
// younger sequences if necessary. Where that fails, the sequence becomes b.short.
func (b *Batcher) secure(w want) bool {
	if b.short != nil && b.short.arrival < w.arrival {
		return false
	}
	if b.short == w.sequence {
		b.short = nil
	}
	if b.missing(w, nil) > 0 && !b.reclaim(w) {
		b.short = w.sequence
		return false
	}
	return true
}

// growing is how many running sequences older than s will need more pages. A
// sequence that starts leaves that many pages free: else one of them would soon
// preempt it, and what it had computed would be lost.
func (b *Batcher) growing(s *sequence) (n int) {
	for i := range b.micro {
		for _, o := range b.micro[i].running {
			if o.arrival < s.arrival && b.cache.Room(o.id) < o.prompt+o.maxTokens {
				n++
			}
		}
	}
	return n
}

// reclaim preempts younger sequences that are in no step, the youngest first, until
// the cache has enough pages. Where all of them would not be enough, it preempts
// none and returns false.
func (b *Batcher) reclaim(w want) bool {
	b.candidates(w.sequence)
	if b.missing(w, b.ids) > 0 {
		return false
	}
	enough := sort.Search(len(b.ids), func(k int) bool { return b.missing(w, b.ids[:k]) <= 0 })
	for _, v := range b.victims[:enough] {
		b.preempt(v)
	}
	return true
}

// candidates lists the sequences that s may take pages from, youngest first.
func (b *Batcher) candidates(s *sequence) {
	b.victims, b.ids = b.victims[:0], b.ids[:0]
	for i := range b.micro {
		for _, v := range b.micro[i].running {
			if v.arrival > s.arrival && v.inFlight == 0 {
				b.victims = append(b.victims, v)
			}
		}
	}
	slices.SortFunc(b.victims, func(x, y *sequence) int { return byArrival(y, x) })
	for _, v := range b.victims {
		b.ids = append(b.ids, v.id)
	}
}

// older reports whether there is a request older than s.
func (b *Batcher) older(s *sequence) bool {
	before := func(list []*sequence) bool { return len(list) > 0 && list[0].arrival < s.arrival }
	for i := range b.micro {
		if before(b.micro[i].running) {
			return true
		}
	}
	return before(b.waiting)
}
