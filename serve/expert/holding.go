package expert

import (
	"context"
	"fmt"
	"slices"

	"github.com/tandem-moe/tandem/layer"
	"github.com/tandem-moe/tandem/route"
)

// claims counts the uses of a resource that is to be freed once it has none.
type claims struct {
	uses int
	// unused is closed at the end of the last use; nil until giveBack is called.
	unused chan struct{}
}

func (c *claims) take() { c.uses++ }

func (c *claims) end() {
	c.uses--
	if c.uses == 0 && c.unused != nil {
		close(c.unused)
	}
}

// giveBack says that no new use will begin. The channel is closed at the end of the last
// use.
func (c *claims) giveBack() <-chan struct{} {
	c.unused = make(chan struct{})
	if c.uses == 0 {
		close(c.unused)
	}
	return c.unused
}

// holding is the experts that the node holds by one version of the placement. A message
// uses it from its arrival to the end of its run.
type holding struct {
	claims
	version uint64
	experts [][]int          // by layer
	checks  []*route.Grouper // by layer; nil in a dense one
}

// everything is the experts of all versions together, by layer. An expert is the same in
// every version, so messages of several versions can share a run. A run uses it.
type everything struct {
	claims
	groupers []*route.Grouper
	weights  []layer.ExpertLayer
}

// Hold makes the node serve messages by a placement, beside the placements that it
// serves already. The weights must have the node's experts of all held placements; they
// are read before Hold returns. Hold may be called while the node runs.
func (n *Node) Hold(p route.Placement, w *layer.ExpertWeights) {
	n.holdings.Lock()
	defer n.holdings.Unlock()
	h := &holding{version: p.Version, experts: p.Experts(n.cfg.Place), checks: make([]*route.Grouper, len(p.Layers))}
	for l := range p.Layers {
		if p.Layers[l] != nil {
			h.checks[l] = route.NewGrouper(h.experts[l])
		}
	}
	n.held = append(n.held, h)
	n.gathered = n.unite(w)
}

// unite joins the experts of all held placements.
func (n *Node) unite(w *layer.ExpertWeights) *everything {
	layers := len(n.cfg.Spec.Layers)
	all := &everything{groupers: make([]*route.Grouper, layers), weights: make([]layer.ExpertLayer, layers)}
	for _, l := range n.cfg.Spec.SparseLayers() {
		var experts []int
		for _, h := range n.held {
			experts = append(experts, h.experts[l]...)
		}
		slices.Sort(experts)
		experts = slices.Compact(experts)
		all.groupers[l], all.weights[l] = route.NewGrouper(experts), w.Layer(l, experts)
	}
	return all
}

// Retire makes the node refuse new messages by a version, and returns once the messages
// that it has taken are answered, or ctx ends. After that the node uses only the experts
// of the other versions.
func (n *Node) Retire(ctx context.Context, version uint64, w *layer.ExpertWeights) error {
	n.holdings.Lock()
	i := slices.IndexFunc(n.held, func(h *holding) bool { return h.version == version })
	if i < 0 {
		n.holdings.Unlock()
		return fmt.Errorf("placement %d is not held", version)
	}
	h := n.held[i]
	n.held = slices.Delete(n.held, i, i+1)
	through := h.giveBack()
	n.holdings.Unlock()
	if err := wait(ctx, through); err != nil {
		return err
	}
	n.holdings.Lock()
	before := n.gathered
	n.gathered = n.unite(w)
	through = before.giveBack()
	n.holdings.Unlock()
	return wait(ctx, through)
}

// wait waits until a channel is closed, or ctx ends.
func wait(ctx context.Context, closed <-chan struct{}) error {
	select {
	case <-closed:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}

// use begins the use of a version's holding by a message for layer l; done ends it.
func (n *Node) use(version uint64, l int) (*holding, error) {
	n.holdings.Lock()
	defer n.holdings.Unlock()
	var versions []uint64
	for _, h := range n.held {
		switch {
		case h.version != version:
			versions = append(versions, h.version)
		case l >= len(h.checks) || h.checks[l] == nil:
			return nil, fmt.Errorf("layer %d has no experts", l)
		default:
			h.take()
			return h, nil
		}
	}
	return nil, fmt.Errorf("split by placement %d, this node has %v", version, versions)
}

// done ends the use of something by a message or a run.
func (n *Node) done(c interface{ end() }) {
	n.holdings.Lock()
	defer n.holdings.Unlock()
	c.end()
}

// all begins the use of the experts that the node holds now; done ends it.
func (n *Node) all() *everything {
	n.holdings.Lock()
	defer n.holdings.Unlock()
	n.gathered.take()
	return n.gathered
}
