package attention

import (
	"bytes"
	"context"
	"fmt"

	"github.com/tandem-moe/tandem/kernel"
	"github.com/tandem-moe/tandem/layer"
)

// pageMemory is the node's KV cache as a kvcache.Memory. The device's queue orders a
// write before later steps; a read waits for the steps before it.
type pageMemory struct {
	ctx   context.Context
	dev   kernel.Device
	cache *layer.Cache
}

func (m pageMemory) PageBytes() int { return m.cache.PageBytes() }

func (m pageMemory) ReadPage(page int32, dst []byte) error {
	m.cache.ReadPage(m.dev, int(page), dst)
	return m.dev.Record().Wait(m.ctx)
}

func (m pageMemory) WritePage(page int32, src []byte) error {
	m.cache.WritePage(m.dev, int(page), src)
	return nil
}

// Export returns the cached full pages of a prefix, from page from on, as bytes for
// another node of the same model and numerics, and how many pages they are.
func (n *Node) Export(ctx context.Context, tokens []int32, from int) ([]byte, int, error) {
	var b bytes.Buffer
	var pages int
	err := n.between(ctx, func() error {
		var err error
		pages, err = n.pages.Export(&b, pageMemory{ctx, n.cfg.Device, n.cfg.Cache}, tokens, from)
		return err
	})
	if err != nil {
		return nil, 0, fmt.Errorf("exporting KV pages: %w", err)
	}
	return b.Bytes(), pages, nil
}

// Import puts pages that Export returned into the cache, for later sequences with their
// prefix, and returns how many of the pages the cache has now.
func (n *Node) Import(ctx context.Context, data []byte) (int, error) {
	var pages int
	err := n.between(ctx, func() error {
		var err error
		pages, err = n.pages.Import(bytes.NewReader(data), pageMemory{ctx, n.cfg.Device, n.cfg.Cache})
		return err
	})
	if err != nil {
		return pages, fmt.Errorf("importing KV pages: %w", err)
	}
	return pages, nil
}

// between runs f on the node's loop, between two steps.
func (n *Node) between(ctx context.Context, f func() error) error {
	done := make(chan error, 1)
	n.tell(command{do: func() error {
		done <- f()
		return nil
	}})
	select {
	case err := <-done:
		return err
	case <-ctx.Done():
		return ctx.Err()
	}
}
