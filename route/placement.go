// Package route owns which rows go where and how they travel: the placement of
// experts on nodes, the split of a micro-batch into one packet per node, the
// grouping of packets into one matrix per expert, the lists of results that are
// added up, the format of rows, and the bytes that describe them. Each row
// travels once to a node, however many of its experts live there. It may not
// know sockets, processes or who sends; what a format does to a row is
// kernel's.
package route

import (
	"fmt"
	"slices"
)

// Placement says which nodes hold which experts of which layer. The front end
// makes it, and nodes take it from the cluster's view. A changed placement has a
// higher version. It is not changed once it is made: layers that are placed alike
// share their memory.
type Placement struct {
	Version uint64
	// Nodes is the number of expert nodes.
	Nodes int
	// Layers is by layer of the model; a layer without experts has none.
	Layers []Homes
}

// Homes lists, for each expert of a layer, the indices of the nodes that hold it,
// ascending. An expert on several nodes is replicated.
type Homes [][]int

// Limits of a placement. What exceeds them is no cluster that this program can run.
const (
	// MaxNodes bounds the expert nodes.
	MaxNodes = 1 << 10
	// MaxLayers bounds the layers of a model.
	MaxLayers = 1 << 16
)

// Even spreads the experts of each sparse layer over nodes, the same in all of
// them, in contiguous blocks whose sizes differ by at most one; nodes beyond the
// number of experts hold none. sparse says of each layer whether it has experts.
// The result is version 1.
func Even(sparse []bool, experts, nodes int) Placement {
	homes := make(Homes, experts)
	for n := range nodes {
		for e := n * experts / nodes; e < (n+1)*experts/nodes; e++ {
			homes[e] = []int{n}
		}
	}
	p := Placement{Version: 1, Nodes: nodes, Layers: make([]Homes, len(sparse))}
	for l, has := range sparse {
		if has {
			p.Layers[l] = homes
		}
	}
	return p
}

// IsEven says whether the placement is the one that Even makes.
func (p Placement) IsEven() bool {
	for l, homes := range p.Layers {
		if homes == nil || l > 0 && same(homes, p.Layers[l-1]) {
			continue
		}
		even := Even([]bool{true}, len(homes), p.Nodes).Layers[0]
		if !slices.EqualFunc(homes, even, slices.Equal[[]int]) {
			return false
		}
	}
	return true
}

// Experts lists the experts that a node holds, by layer, ascending; nil for a
// layer of which it holds none.
func (p Placement) Experts(node int) [][]int {
	experts := make([][]int, len(p.Layers))
	for l, homes := range p.Layers {
		experts[l] = homes.on(node)
	}
	return experts
}

// on lists the experts that a node holds.
func (h Homes) on(node int) (experts []int) {
	for e, nodes := range h {
		if slices.Contains(nodes, node) {
			experts = append(experts, e)
		}
	}
	return experts
}

// Pick returns one of the nodes of an expert by a row's hash. The row's experts that
// live on the same nodes are all picked on one of them, so that the row travels
// there alone.
func (h Homes) Pick(expert int, hash uint32) int {
	nodes := h[expert]
	return nodes[uint64(hash)*uint64(len(nodes))>>32]
}

// Validate reports what no cluster can have: an expert without a node, one on a
// node that is not there, or twice on one.
func (p Placement) Validate() error {
	if p.Nodes < 1 || p.Nodes > MaxNodes {
		return fmt.Errorf("placement %d: %d nodes, want 1 to %d", p.Version, p.Nodes, MaxNodes)
	}
	if len(p.Layers) > MaxLayers {
		return fmt.Errorf("placement %d: %d layers, the limit is %d", p.Version, len(p.Layers), MaxLayers)
	}
	for l, homes := range p.Layers {
		if l > 0 && same(homes, p.Layers[l-1]) {
			continue
		}
		if err := homes.validate(p.Nodes); err != nil {
			return fmt.Errorf("placement %d: layer %d: %w", p.Version, l, err)
		}
	}
	return nil
}

func (h Homes) validate(nodes int) error {
	if len(h) > MaxExperts {
		return fmt.Errorf("%d experts, the limit is %d", len(h), MaxExperts)
	}
	for e, list := range h {
		if len(list) == 0 {
			return fmt.Errorf("expert %d is on no node", e)
		}
		for i, n := range list {
			if n < 0 || n >= nodes {
				return fmt.Errorf("expert %d is on node %d, there are %d nodes", e, n, nodes)
			}
			if i > 0 && n <= list[i-1] {
				return fmt.Errorf("expert %d is on node %d after node %d, want them ascending", e, n, list[i-1])
			}
		}
	}
	return nil
}

// same says whether two layers share their memory.
func same(a, b Homes) bool {
	return len(a) == len(b) && (len(a) == 0 || &a[0] == &b[0])
}

// Fits reports a placement that is not of a model with the given layers, whose
// sparse ones have so many experts, or not of a cluster of so many nodes.
func (p Placement) Fits(sparse []bool, experts, nodes int) error {
	if p.Nodes != nodes {
		return fmt.Errorf("placement %d is of %d expert nodes, the cluster has %d", p.Version, p.Nodes, nodes)
	}
	if len(p.Layers) != len(sparse) {
		return fmt.Errorf("placement %d is of %d layers, the model has %d", p.Version, len(p.Layers), len(sparse))
	}
	for l, homes := range p.Layers {
		want := 0
		if sparse[l] {
			want = experts
		}
		if len(homes) != want {
			return fmt.Errorf("placement %d has %d experts in layer %d, the model %d", p.Version, len(homes), l, want)
		}
	}
	return nil
}
