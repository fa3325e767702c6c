package deploy

import (
	"github.com/tandem-moe/tandem/kernel"
	"github.com/tandem-moe/tandem/layer"
	"github.com/tandem-moe/tandem/serve/direct"
)

// NewDirect makes the plain version, without nodes, for batches of at most rows rows. It
// shares its weights with the process's deployments, and rounds and adds up as a
// deployment with these options does.
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
