package main

import (
	"encoding/json"
	"fmt"
	"net/http"

	"github.com/tandem-moe/tandem/m2n"
	"github.com/tandem-moe/tandem/serve/node"
)

// pairsHandler serves what m2n counts of each pair of nodes, as a table for
// people; as JSON where format=json is asked for.
func pairsHandler(stats func() []node.Stats) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		pairs := pairsOf(stats())
		switch format := r.URL.Query().Get("format"); format {
		case "json":
			w.Header().Set("Content-Type", "application/json")
			_ = json.NewEncoder(w).Encode(pairs) // nobody to tell
		case "", "text":
			w.Header().Set("Content-Type", "text/plain; charset=utf-8")
			_ = m2n.WriteTable(w, pairs) // nobody to tell
		default:
			http.Error(w, fmt.Sprintf("format is %q, want text or json", format), http.StatusBadRequest)
		}
	})
}

// pairsOf lists the pairs of all nodes.
func pairsOf(nodes []node.Stats) []m2n.PeerStats {
	pairs := []m2n.PeerStats{} // in JSON a list, if an empty one
	for _, n := range nodes {
		for _, p := range n.Peers {
			p.Endpoint = n.Node
			pairs = append(pairs, p)
		}
	}
	return pairs
}
