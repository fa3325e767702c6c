package frontend

import (
	"fmt"

	"github.com/tandem-moe/tandem/serve"
)

// The largest values that a worker may offer.
const (
	maxCacheTokens = 1 << 34
	maxPageTokens  = 1 << 12
	maxNumSeqs     = 1 << 16
	maxStepTokens  = 1 << 20
)

// check refuses an offer whose values are out of bounds or differ from the
// deployment's.
func (c Config) check(o serve.Offer) error {
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
	if o.Vocabulary != c.Vocabulary || o.MaxModelLen != c.MaxModelLen {
		return fmt.Errorf("node %s offers a vocabulary of %d and sequences of %d tokens, the front end has %d and %d",
			o.Node, o.Vocabulary, o.MaxModelLen, c.Vocabulary, c.MaxModelLen)
	}
	if c.MaxBatchedTokens != 0 && o.MaxBatchedTokens != c.MaxBatchedTokens {
		return fmt.Errorf("node %s offers steps of %d rows, the front end has set %d", o.Node, o.MaxBatchedTokens, c.MaxBatchedTokens)
	}
	return nil
}
