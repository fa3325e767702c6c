package serve

import "fmt"

// Worker is an attention node as the front end sees it. Its methods do not
// block.
type Worker interface {
	// Submit hands over a request. What becomes of it is reported.
	Submit(r Request)
	// Cancel ends a request where it still runs; nothing more is reported of it,
	// or a little that was under way.
	Cancel(id uint64)
}

// Offer is what a worker says of itself.
type Offer struct {
	Node  string
	Epoch uint64
	Limits
	// PageTokens is the size of a page of its KV cache; MaxNumSeqs how many
	// sequences it runs at once; MaxBatchedTokens the rows of a step.
	PageTokens, MaxNumSeqs, MaxBatchedTokens int
}

// Bounds of what a worker may offer.
const (
	maxCacheTokens = 1 << 34
	maxPageTokens  = 1 << 12
	maxNumSeqs     = 1 << 16
	maxStepTokens  = 1 << 20
)

// check refuses an offer that no worker of the deployment makes.
func (o *Offer) check(cfg FrontEndConfig) error {
	for _, f := range []struct {
		name              string
		value, least, max int
	}{
		{"PageTokens", o.PageTokens, 1, maxPageTokens},
		{"CacheTokens", o.CacheTokens, o.PageTokens, maxCacheTokens},
		{"MaxNumSeqs", o.MaxNumSeqs, 1, maxNumSeqs},
		{"MaxBatchedTokens", o.MaxBatchedTokens, 1, maxStepTokens},
	} {
		if f.value < f.least || f.value > f.max {
			return fmt.Errorf("node %s offers %s of %d, want %d to %d", o.Node, f.name, f.value, f.least, f.max)
		}
	}
	if o.Vocabulary != cfg.Vocabulary || o.MaxModelLen != cfg.MaxModelLen {
		return fmt.Errorf("node %s offers a vocabulary of %d and sequences of %d tokens, the front end has %d and %d",
			o.Node, o.Vocabulary, o.MaxModelLen, cfg.Vocabulary, cfg.MaxModelLen)
	}
	if cfg.MaxBatchedTokens != 0 && o.MaxBatchedTokens != cfg.MaxBatchedTokens {
		return fmt.Errorf("node %s offers steps of %d rows, the front end has set %d", o.Node, o.MaxBatchedTokens, cfg.MaxBatchedTokens)
	}
	return nil
}
