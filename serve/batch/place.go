package batch

import "github.com/tandem-moe/tandem/serve/kvcache"

// NodeLoad is what a request's predicted time on an attention node depends on.
type NodeLoad struct {
	// Down says that the node takes no requests.
	Down bool
	// Queued is how many rows its requests need before all of them decode, and
	// Sequences how many requests it has.
	Queued, Sequences int
	// FreeTokens is the room that is left once all of them have started.
	FreeTokens int
	// StepTokens is how many rows a step has at most.
	StepTokens int
	// Cached is how many tokens of the request its cache holds.
	Cached int
}

// horizon is how many decode steps beyond the first token [Place] looks ahead:
// a token of prefix is worth a row once, a sequence beside one's own is a row in
// each step that one decodes.
const horizon = 16

// time predicts a request's time in rows, of which a node computes about the same
// number a second whatever they belong to:
//
//	W = Queued + tokens − Cached            until its first token is drawn
//	T = W + Sequences · (⌈W / StepTokens⌉ + horizon) + shortage
//
// Each step until then and for a while after carries a row for everybody else.
// The shortage, tokens − Cached − FreeTokens where that is positive, stands for
// the wait until others have freed as much.
func (n NodeLoad) time(tokens int) int {
	own := tokens - n.Cached
	work := n.Queued + own
	steps := (work+n.StepTokens-1)/n.StepTokens + horizon
	return work + n.Sequences*steps + max(0, own-n.FreeTokens)
}

// Place chooses the node with the lowest predicted time for a request of so many
// tokens, ties to the lower index; −1 where all are down.
func Place(nodes []NodeLoad, tokens int) int {
	best, least := -1, 0
	for i, n := range nodes {
		if n.Down {
			continue
		}
		if t := n.time(tokens); best < 0 || t < least {
			best, least = i, t
		}
	}
	return best
}

// Load describes the node for a request of so many tokens with these keys.
func (b *Batcher) Load(keys []kvcache.Key, tokens int) NodeLoad {
	usage := b.cache.Usage()
	pageTokens := b.cache.Identity().PageTokens
	load := NodeLoad{
		Sequences: len(b.seqs), StepTokens: b.config.MaxBatchedTokens,
		FreeTokens: (usage.Free + usage.Cached) * pageTokens,
	}
	for i := range b.micro {
		load.Queued += b.micro[i].backlog()
	}
	for _, s := range b.waiting {
		load.Queued += s.left()
		load.FreeTokens -= s.left()
	}
	if !b.config.NoReuse {
		load.Cached = b.cache.Match(keys, tokens)
	}
	return load
}
