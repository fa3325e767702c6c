package deploy

import (
	"github.com/tandem-moe/tandem/kernel"
	"github.com/tandem-moe/tandem/layer"
	"github.com/tandem-moe/tandem/serve/direct"
)

// NewDirect makes the plain version, without nodes, for batches of at most rows rows.
// It shares its weights with the process's deployments.
func NewDirect(m *Model, w *Weights, dev kernel.Device, cache *layer.Cache, rows int) (*direct.Model, error) {
	// Each place holds a block of experts, in rising order, so that the joined blocks
	// are in order too.
	d, err := direct.New(dev, m.Spec, w.attention, layer.JoinExperts(w.experts...), cache, rows)
	if err != nil {
		return nil, err
	}
	d.ExpertNodes = len(w.experts)
	return d, nil
}
