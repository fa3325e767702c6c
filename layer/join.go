package layer

// JoinExperts is the experts of several nodes as one node's, in the order given:
// those of the first, then those of the second. The weights themselves are
// shared.
func JoinExperts(nodes ...*ExpertWeights) *ExpertWeights {
	joined := &ExpertWeights{layers: make([]expertLayer, len(nodes[0].layers))}
	for l := range joined.layers {
		to := &joined.layers[l]
		for _, n := range nodes {
			to.gateUp = append(to.gateUp, n.layers[l].gateUp...)
			to.down = append(to.down, n.layers[l].down...)
			to.gateUpBias = append(to.gateUpBias, n.layers[l].gateUpBias...)
			to.downBias = append(to.downBias, n.layers[l].downBias...)
		}
	}
	return joined
}
