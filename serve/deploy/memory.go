package deploy

import (
	"fmt"
	"os"

	"github.com/tandem-moe/tandem/cluster"
	"github.com/tandem-moe/tandem/internal/headroom"
	"github.com/tandem-moe/tandem/layer"
	"github.com/tandem-moe/tandem/model"
)

// fallbackMemory stands in where the system does not tell.
const fallbackMemory = 4 << 30

// kvShare is the share of the free memory that the KV cache takes by default, once
// the weights are loaded: the rest is for messages, for prompts under way, and for
// whoever else is on the machine.
const kvShare = 3

// freeMemory is the memory that could be had now, within the limits of the control
// groups where there are any.
func freeMemory() headroom.Headroom {
	h, ok := headroom.Measure(os.DirFS("/"))
	if !ok {
		return headroom.Headroom{Bytes: fallbackMemory, Limit: "a guess, as the system does not tell"}
	}
	return h
}

// cacheMemory is how much memory KV caches get, and where that comes from.
type cacheMemory struct {
	bytes int64
	from  string
}

// fillCache sets KVMemory for a process that has a KV cache, and checks that it
// holds one page for each attention node. The weights that the process has still to
// load come first: they are packed copies, which the kernel cannot drop.
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

// fillCache sizes the KV cache of an attention node, which may have loaded its
// weights. Expert nodes have none.
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

// defaultCache is what the sequences need at most, as far as a share of the free
// memory goes that the weights leave.
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

// size writes bytes for people.
func size(n int64) string {
	if n < 1<<30 {
		return fmt.Sprintf("%.1f MiB", float64(n)/(1<<20))
	}
	return fmt.Sprintf("%.1f GiB", float64(n)/(1<<30))
}

// attentionBytes is the size of what an attention node loads: all but the experts.
// Packed weights keep their type, so that they take what they take in the files. It
// reads headers alone.
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
