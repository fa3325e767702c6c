package deploy

import (
	"fmt"
	"os"

	"github.com/tandem-moe/tandem/cluster"
	"github.com/tandem-moe/tandem/internal/headroom"
	"github.com/tandem-moe/tandem/layer"
	"github.com/tandem-moe/tandem/model"
)

// fallbackMemory is taken for the free memory where the system does not tell it.
const fallbackMemory = 4 << 30

// kvShare: by default, the KV cache takes 1/kvShare of the memory that the weights
// leave free. The rest is for messages, activations, and other processes of the
// machine.
const kvShare = 3

// freeMemory is the memory that could be allocated now, within the limits of control
// groups, if there are any.
func freeMemory() headroom.Headroom {
	h, ok := headroom.Measure(os.DirFS("/"))
	if !ok {
		return headroom.Headroom{Bytes: fallbackMemory, Limit: "a guess, as the system does not tell"}
	}
	return h
}

// cacheMemory is how much memory KV caches get, and why.
type cacheMemory struct {
	bytes int64
	from  string // the reason for this size, for people
}

// fillCache sets KVMemory for a process that has a KV cache, and checks that it holds
// at least one page for each attention node. toLoad is the bytes of weights that the
// process has still to load: it does not count as free, since weights are packed
// copies, which the operating system cannot drop as it drops cached files.
func (o *Options) fillCache(spec *model.Spec, toLoad int64) error {
	o.cacheFrom = "--kv-memory"
	if o.KVMemory == 0 {
		m := o.defaultCache(spec, toLoad, freeMemory())
		o.KVMemory, o.cacheFrom = m.bytes, m.from
	}
	page := layer.CacheBytes(spec, o.PageTokens)
	if o.KVMemory < page*int64(o.Attention) {
		return fmt.Errorf("kv-memory is %d bytes (%s) for %d attention nodes, one page of %d tokens takes %d", o.KVMemory, o.cacheFrom, o.Attention, o.PageTokens, page)
	}
	return nil
}

// fillCache sets the size of an attention node's KV cache, before or after the node
// has loaded its weights. Expert nodes have no KV cache.
func (n *Node) fillCache(o *Options) error {
	if n.Role == cluster.Expert {
		return nil
	}
	var toLoad int64
	if n.attention == nil {
		var err error
		if toLoad, err = attentionBytes(n.model); err != nil {
			return err
		}
	}
	return o.fillCache(n.model.Spec, toLoad)
}

// defaultCache is what the longest sequences need, but at most 1/kvShare of the free
// memory that the weights leave.
func (o *Options) defaultCache(spec *model.Spec, toLoad int64, free headroom.Headroom) cacheMemory {
	pages := int64((o.MaxModelLen + o.PageTokens - 1) / o.PageTokens)
	needed := pages * layer.CacheBytes(spec, o.PageTokens) * int64(o.MaxNumSeqs*o.Attention)
	share := max(free.Bytes-toLoad, 0) / kvShare
	if needed <= share {
		return cacheMemory{needed, fmt.Sprintf("all that %d sequences of %d tokens need; see --kv-memory", o.MaxNumSeqs*o.Attention, o.MaxModelLen)}
	}
	from := fmt.Sprintf("a third of the %s that are free by %s", size(free.Bytes), free.Limit)
	if toLoad > 0 {
		from += fmt.Sprintf(", less %s of weights", size(toLoad))
	}
	return cacheMemory{share, from + "; see --kv-memory"}
}

// size formats a number of bytes for people.
func size(n int64) string {
	if n < 1<<30 {
		return fmt.Sprintf("%.1f MiB", float64(n)/(1<<20))
	}
	return fmt.Sprintf("%.1f GiB", float64(n)/(1<<30))
}

// attentionBytes is the size of the weights that an attention node loads: all but the
// experts. Packed weights keep their type, so their size in memory is their size in
// the files. It reads the files' headers only.
func attentionBytes(m *Model) (int64, error) {
	c, err := m.Spec.Catalogue(m.Checkpoint.Has)
	if err != nil {
		return 0, fmt.Errorf("%s: %w", m.Source, err)
	}
	experts, err := c.Refs(m.Spec.AllExperts())
	if err != nil {
		return 0, fmt.Errorf("%s: %w", m.Source, err)
	}
	return max(m.Checkpoint.Bytes()-m.Checkpoint.BytesOf(experts), 0), nil
}
