package main

import (
	"encoding/json"
	"net/http"
	"net/http/httptest"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/tandem-moe/tandem/m2n"
	"github.com/tandem-moe/tandem/serve/node"
)

// nodesWithPairs are two nodes as m2n counts them.
func nodesWithPairs() []node.Stats {
	sent := map[string]m2n.Traffic{"tcp": {Messages: 3, Bytes: 2048}}
	return []node.Stats{
		{Node: "attention-0", Peers: []m2n.PeerStats{{Peer: "expert-1", State: "up", Transport: "tcp", Sent: sent,
			Retries: 2}}},
		{Node: "expert-1", Peers: []m2n.PeerStats{{Peer: "attention-0", State: "lost", Sent: sent}}},
	}
}

// TestPairsHandler tells the same as a table and as JSON.
func TestPairsHandler(t *testing.T) {
	get := func(query string, nodes []node.Stats) *httptest.ResponseRecorder {
		w := httptest.NewRecorder()
		handler := pairsHandler(func() []node.Stats { return nodes })
		handler.ServeHTTP(w, httptest.NewRequestWithContext(t.Context(), http.MethodGet, "/debug/m2n"+query, nil))
		return w
	}
	text := get("", nodesWithPairs())
	require.Equal(t, http.StatusOK, text.Code)
	require.Regexp(t, `(?m)^attention-0 +expert-1 +0 +tcp +up +3 +2\.00 KiB `, text.Body.String())
	require.Regexp(t, `(?m)^expert-1 +attention-0 +0 +- +lost `, text.Body.String())

	w := get("?format=json", nodesWithPairs())
	require.Equal(t, "application/json", w.Header().Get("Content-Type"))
	var pairs []m2n.PeerStats
	require.NoError(t, json.Unmarshal(w.Body.Bytes(), &pairs))
	require.Equal(t, pairsOf(nodesWithPairs()), pairs)
	require.Equal(t, "attention-0", pairs[0].Endpoint)
	require.JSONEq(t, "[]", get("?format=json", nil).Body.String())

	w = get("?format=xml", nil)
	require.Equal(t, http.StatusBadRequest, w.Code)
	require.Contains(t, w.Body.String(), `"xml"`)
}

// TestPeerMetrics: a pair that is lost keeps the transport that it had, and a
// histogram its counts.
func TestPeerMetrics(t *testing.T) {
	nodes := nodesWithPairs()
	lost := nodes[1].Peers[0]
	lost.Sent["shm"] = m2n.Traffic{Messages: 5}
	require.Equal(t, "shm", peer("a", lost).Transport)
	require.Equal(t, "none", peer("a", m2n.PeerStats{}).Transport)
	require.Equal(t, "tcp", peer("a", nodes[0].Peers[0]).Transport)

	var h m2n.Histogram
	h.Sum = 42 * time.Second
	for i := range h.Buckets {
		h.Buckets[i] = uint64(i)
		h.Count += uint64(i)
	}
	s := seconds(h)
	require.Equal(t, h.Count, s.Count())
	require.Equal(t, 42.0, s.Sum)
	require.Len(t, s.Bounds, 13)
	require.InEpsilon(t, 1.024e-6, s.Bounds[0], 1e-12)
	require.InEpsilon(t, 17.18, s.Bounds[12], 1e-3)
	require.Equal(t, uint64(10*11/2), s.Counts[0])
	require.Equal(t, uint64(11+12), s.Counts[1])
	require.Equal(t, uint64(35+36+37+38+39), s.Counts[13])
}
