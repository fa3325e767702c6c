package tokenizer

import (
	"strings"
	"sync"
)

// Bounds of a cache: its memory is at most some 30 MB.
const (
	cacheWords    = 1 << 16
	cacheWordSize = 64 // bytes; longer words hardly come again
)

// wordCache remembers the tokens of words. It is safe for concurrent use.
type wordCache struct {
	mu    sync.RWMutex
	words map[string][]int32
}

func (c *wordCache) get(word string) ([]int32, bool) {
	c.mu.RLock()
	defer c.mu.RUnlock()
	ids, ok := c.words[word]
	return ids, ok
}

// put keeps a word's tokens. A full cache begins anew: the words that matter
// come back at once.
func (c *wordCache) put(word string, ids []int32) {
	if len(word) > cacheWordSize {
		return
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.words == nil || len(c.words) >= cacheWords {
		c.words = make(map[string][]int32)
	}
	c.words[strings.Clone(word)] = append([]int32(nil), ids...)
}
