package deploy

import (
	"github.com/tandem-moe/tandem/kernel"
	"github.com/tandem-moe/tandem/layer"
	"github.com/tandem-moe/tandem/serve/direct"
)

// NewDirect makes the version without nodes, for batches of at most rows rows, over
// weights that deployments use too. It rounds and adds up as the options' deployment
// does.
func NewDirect(m *Model, o Options, w *Weights, dev kernel.Device, cache *layer.Cache, rows int) (*direct.Model, error) {
	if err := o.fill(m.Spec); err != nil {
		return nil, err
	}
	if err := o.fillPlacement(m.Spec); err != nil {
		return nil, err
	}
	d, err := direct.New(dev, m.Spec, w.attention, w.experts, cache, rows)
	if err != nil {
		return nil, err
	}
	d.Wire, d.Placement = o.Wire, o.Placement
	return d, nil
}
