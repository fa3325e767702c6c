package main

import (
	"regexp"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/tandem-moe/tandem/cluster"
	"github.com/tandem-moe/tandem/serve/node"
)

// TestSourceTellsWhatItKnows: a node tells nothing of the other part.
func TestSourceTellsWhatItKnows(t *testing.T) {
	of := func(roles ...cluster.Role) *source {
		var nodes []node.Stats
		for _, r := range roles {
			nodes = append(nodes, node.Stats{Role: r})
		}
		return &source{stats: func() []node.Stats { return nodes }}
	}
	attention, expert, both := of(cluster.Attention).Snapshot(), of(cluster.Expert).Snapshot(), of(cluster.Attention,
		cluster.Expert).Snapshot()
	require.Nil(t, attention.Experts)
	require.NotNil(t, attention.Cache)
	require.NotNil(t, attention.Requests)
	require.Nil(t, expert.Cache)
	require.Nil(t, expert.Requests)
	require.Nil(t, expert.Attention)
	require.NotNil(t, expert.Experts)
	for _, known := range []any{both.Requests, both.Cache, both.Attention, both.Communication, both.Experts} {
		require.NotNil(t, known)
	}
}

// TestFrontEndTellsWhatItKnows: a front end whose nodes are elsewhere counts
// requests, and says nothing of a cache that it does not see.
func TestFrontEndTellsWhatItKnows(t *testing.T) {
	front := start(t, "serve", "--control", "127.0.0.1:0", "--listen", "127.0.0.1:0")
	_, text := client{t: t, url: front.url()}.get("/metrics")
	require.Contains(t, text, `vllm:num_requests_running{model_name="gopher"} 0`)
	require.Contains(t, text, `vllm:request_success_total{`)
	require.NotRegexp(t, regexp.MustCompile(`(?m)^(tandem_|vllm:kv_cache|vllm:prefix|vllm:num_preemptions)`), text)
	front.stopped()
}
