package main

import (
	"context"
	"encoding/json"
	"log/slog"
	"net/http"

	"github.com/tandem-moe/tandem/serve/deploy"
	"github.com/tandem-moe/tandem/serve/node"
	"github.com/tandem-moe/tandem/telemetry"
)

// work runs the node, and tells of it over HTTP meanwhile where that is wanted.
func (c *NodeCmd) work(ctx context.Context, log *slog.Logger, m *deploy.Model, n *deploy.Node) error {
	if c.Metrics == "" {
		return n.Run(ctx)
	}
	bound, end, err := serveStatus(log, "--metrics", c.Metrics, nodeStatus(m.Name, n))
	if err != nil {
		return err
	}
	defer end()
	log.Info("serving /metrics, /debug/m2n and /health", "address", bound.String())
	return n.Run(ctx)
}

// nodeStatus serves a node's metrics, its connections with other nodes, and its
// health: 200 while it is ready, else what it waits for.
func nodeStatus(model string, n *deploy.Node) http.Handler {
	mux := http.NewServeMux()
	stats := func() []node.Stats { return []node.Stats{n.Stats()} }
	mux.Handle("GET /metrics", telemetry.NodeHandler(model, &source{stats: stats}))
	mux.Handle("GET /debug/m2n", pairsHandler(stats))
	mux.HandleFunc("GET /health", func(w http.ResponseWriter, _ *http.Request) {
		s := n.Status()
		w.Header().Set("Content-Type", "application/json")
		if s.State != deploy.Ready {
			w.WriteHeader(http.StatusServiceUnavailable)
		}
		_ = json.NewEncoder(w).Encode(struct {
			Status deploy.State `json:"status"`
			Node   string       `json:"node,omitempty"`
			Reason string       `json:"reason,omitempty"`
		}{s.State, s.ID, s.Reason}) // nobody to tell
	})
	return mux
}
