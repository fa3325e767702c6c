// Package route owns which rows go where and how they travel: the placement of
// experts on nodes, the split of a micro-batch into one packet per node, the
// grouping of packets into one matrix per expert, the lists of results that are
// added up, the format of rows, and the bytes that describe them. Each row
// travels once to a node, however many of its experts live there. It may not
// know sockets, processes or who sends; what a format does to a row is
// kernel's.
package route

import "fmt"

// Placement says which nodes hold which experts. An expert may live on several
// nodes. Version rises with every change.
type Placement struct {
	Version uint64
	// Nodes is the number of expert nodes.
	Nodes int
	// Of lists, for each expert, the indices of the nodes that hold it.
	Of [][]int
}

// Even spreads experts over nodes in contiguous blocks whose sizes differ by at
// most one; nodes beyond the number of experts hold none.
func Even(experts, nodes int) Placement {
	p := Placement{Nodes: nodes, Of: make([][]int, experts)}
	for n := range nodes {
		for e := n * experts / nodes; e < (n+1)*experts/nodes; e++ {
			p.Of[e] = []int{n}
		}
	}
	return p
}

// Experts lists the experts that a node holds, ascending.
func (p Placement) Experts(node int) []int {
	var experts []int
	for e, nodes := range p.Of {
		for _, n := range nodes {
			if n == node {
				experts = append(experts, e)
			}
		}
	}
	return experts
}

// Validate reports an expert without a node, or one on a node that is not there.
func (p Placement) Validate() error {
	if len(p.Of) > MaxExperts {
		return fmt.Errorf("placement %d: %d experts, the limit is %d", p.Version, len(p.Of), MaxExperts)
	}
	for e, nodes := range p.Of {
		if len(nodes) == 0 {
			return fmt.Errorf("placement %d: expert %d is on no node", p.Version, e)
		}
		for _, n := range nodes {
			if n < 0 || n >= p.Nodes {
				return fmt.Errorf("placement %d: expert %d is on node %d, there are %d nodes", p.Version, e, n, p.Nodes)
			}
		}
	}
	return nil
}
