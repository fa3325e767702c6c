package batch

import "github.com/tandem-moe/tandem/serve/kvcache"

// NodeLoad is what the predicted time of one request on an attention node depends
// on.
type NodeLoad struct {
	// Down says that the node takes no requests.
	Down bool
	// Queued is how many rows must be computed before all the node's requests
	// decode, Sequences how many requests it has.
	Queued, Sequences int
	// FreeTokens is the room, in tokens, that is left once all its requests have
	// started; negative where they do not all fit.
	FreeTokens int
	// StepTokens is how many rows a step has at most.
	StepTokens int
	// Cached is how many of the request's tokens the node's KV cache holds.
	Cached int
}

// horizon is how many decode steps beyond the first token [Place] looks ahead. A
// cached token saves one row once; another sequence on the node costs one row in
// each step in which the request decodes.
const horizon = 16

// time predicts a request's time, measured in rows: a node computes about the same
// number of rows per second whichever sequences they belong to.
//
//	W = Queued + tokens − Cached            until its first token is drawn
//	T = W + Sequences · (⌈W / StepTokens⌉ + horizon) + shortage
//
// Each step up to the first token, and for horizon steps after it, carries a row of
// every other sequence. The shortage, tokens − Cached − FreeTokens where that is
// positive, stands for the wait until other sequences have freed that much room.
func (n NodeLoad) time(tokens int) int {
	own := tokens - n.Cached
	work := n.Queued + own
	steps := (work+n.StepTokens-1)/n.StepTokens + horizon
	return work + n.Sequences*steps + max(0, own-n.FreeTokens)
}

// Place returns the index of the node with the lowest predicted time for a request
// of so many tokens; of equal times the lowest index, −1 where all nodes are down.
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

// Load describes the batcher's node for a request of so many tokens; keys are those
// of the request's full pages.
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
