package deploy

import (
	"github.com/tandem-moe/tandem/kernel"
	"github.com/tandem-moe/tandem/layer"
	"github.com/tandem-moe/tandem/serve/direct"
)

// NewDirect makes the version without nodes, for batches of at most rows rows,
// over weights that deployments use too.
func NewDirect(m *Model, w *Weights, dev kernel.Device, cache *layer.Cache, rows int) (*direct.Model, error) {
	// Places hold ascending blocks of experts: joined, they are all in order.
	d, err := direct.New(dev, m.Spec, w.attention, layer.JoinExperts(w.experts...), cache, rows)
	if err != nil {
		return nil, err
	}
	d.ExpertNodes = len(w.experts)
	return d, nil
}
