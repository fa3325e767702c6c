package telemetry

import (
	"flag"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/stretchr/testify/require"

	"github.com/tandem-moe/tandem/serve/completion"
	"github.com/tandem-moe/tandem/telemetry/histogram"
)

var update = flag.Bool("update", false, "write testdata anew")

var _ completion.SequenceObserver = (*Sequence)(nil)

type fixed Snapshot

func (f fixed) Snapshot() Snapshot { return Snapshot(f) }

func observed(bounds []float64, values ...float64) histogram.Snapshot {
	h := histogram.New(bounds...)
	for _, v := range values {
		h.Observe(v)
	}
	return h.Snapshot()
}

// engineAtWork is a snapshot with every field set.
func engineAtWork() fixed {
	seconds := []float64{0.001, 0.01, 0.1}
	return fixed{
		Running: 3, Waiting: 2, CacheTokens: 1000, CacheUsed: 250,
		PrefixQueries: 400, PrefixHits: 100, Preemptions: 1,
		Attention:     observed(seconds, 0.002, 0.5),
		Expert:        observed(seconds, 0.003),
		Communication: observed(seconds, 0.0005),
		RowsPerExpert: observed(histogram.Powers(4), 1, 3, 100),
		Gathers:       Gathers{EndedBy: map[string]uint64{"complete": 9, "linger": 1}, Calls: 10, Messages: 35, Rows: 700},
		Pools: []Pool{
			{Name: "attention", Nodes: 4, Busy: 30, Wall: 40},
			{Name: "expert", Nodes: 2, Busy: 10, Wall: 20},
		},
		Peers: []Peer{{
			Name: "a0>e1", Transport: "tcp", Messages: 35, Bytes: 4096, Queued: 2, Credit: 6,
			Queue: observed(seconds, 0.005), Wire: observed(seconds, 0.015), Latency: observed(seconds, 0.02),
			Receive: observed(seconds, 0.03, 0.03), CreditWait: observed(seconds, 0.004), CreditWaits: 2,
			Retries: 3, Retransmits: 4, Losses: 5, Dropped: 6,
		}},
	}
}

// scrape is what /metrics says of Tandem: the process's own lines vary.
func scrape(t *testing.T, m *Metrics) string {
	t.Helper()
	w := httptest.NewRecorder()
	m.Handler().ServeHTTP(w, httptest.NewRequestWithContext(t.Context(), "GET", "/metrics", nil))
	require.Equal(t, 200, w.Code, w.Body.String())
	var kept strings.Builder
	for line := range strings.Lines(w.Body.String()) {
		if strings.Contains(line, "vllm:") || strings.Contains(line, "tandem_") {
			kept.WriteString(line)
		}
	}
	return kept.String()
}

func TestScrape(t *testing.T) {
	m := New("gopher", engineAtWork())
	clock := time.Unix(0, 0)
	m.now = func() time.Time { return clock }
	wait := func(d time.Duration) { clock = clock.Add(d) }

	s := m.Sequence(7)
	wait(30 * time.Millisecond)
	s.Token(0)
	wait(2 * time.Millisecond)
	s.Token(0)
	wait(time.Second)
	s.End("stop")
	m.Sequence(5).End("abort")

	got := scrape(t, m)
	file := filepath.Join("testdata", "metrics.txt")
	if *update {
		require.NoError(t, os.WriteFile(file, []byte(got), 0o644))
	}
	want, err := os.ReadFile(file)
	require.NoError(t, err)
	require.Empty(t, cmp.Diff(string(want), got))
}

// TestWithoutEngine: a snapshot of zeros, and no source at all, are scraped
// without an error.
func TestWithoutEngine(t *testing.T) {
	require.Contains(t, scrape(t, New("m", fixed{})), `vllm:kv_cache_usage_perc{model_name="m"} 0`)
	require.NotContains(t, scrape(t, New("m", nil)), "kv_cache_usage_perc")
}

func TestShares(t *testing.T) {
	require.Equal(t, 3.5, engineAtWork().Gathers.Aggregation())
	require.Equal(t, 0.25, engineAtWork().Pools[0].Bubble())
	require.Zero(t, Gathers{}.Aggregation())
	require.Zero(t, Pool{}.Bubble())
}
