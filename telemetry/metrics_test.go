package telemetry

import (
	"net/http/httptest"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/tandem-moe/tandem/internal/golden"
	"github.com/tandem-moe/tandem/serve/completion"
	"github.com/tandem-moe/tandem/telemetry/histogram"
)

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
	attention, communication := observed(seconds, 0.002, 0.5), observed(seconds, 0.0005)
	givenUp := uint64(2)
	return fixed{
		StepsGivenUp:  &givenUp,
		Requests:      &Requests{Running: 3, Waiting: 2},
		Cache:         &Cache{Tokens: 1000, Used: 250, PrefixQueries: 400, PrefixHits: 100, Preemptions: 1},
		Attention:     &attention,
		Communication: &communication,
		Experts: &Experts{
			Seconds:       observed(seconds, 0.003),
			RowsPerExpert: observed(histogram.Powers(4), 1, 3, 100),
			Gathers: Gathers{EndedBy: map[string]uint64{"complete": 9, "linger": 1}, Calls: 10, Messages: 35,
				Rows: 700},
		},
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

	golden.File(t, "metrics.txt", scrape(t, m))
}

// TestUnknownIsAbsent: what a source does not know is not there, and what it knows
// is, if it is 0.
func TestUnknownIsAbsent(t *testing.T) {
	nothing := scrape(t, New("m", nil))
	require.Equal(t, nothing, scrape(t, New("m", fixed{})), "a source that knows nothing")
	for _, s := range []struct {
		snapshot fixed
		name     string
	}{
		{fixed{Requests: &Requests{}}, "vllm:num_requests_running"},
		{fixed{Cache: &Cache{}}, "vllm:kv_cache_usage_perc"},
		{fixed{Cache: &Cache{}}, "vllm:num_preemptions_total"},
		{fixed{StepsGivenUp: new(uint64)}, "tandem_steps_given_up_total"},
		{fixed{Attention: &histogram.Snapshot{Counts: []uint64{0}}}, "tandem_attention_seconds_count"},
		{fixed{Communication: &histogram.Snapshot{Counts: []uint64{0}}}, "tandem_communication_seconds_count"},
		{fixed{Experts: &Experts{}}, "tandem_expert_calls_total"},
	} {
		require.NotContains(t, nothing, s.name)
		require.Contains(t, scrape(t, New("m", s.snapshot)), s.name+`{model_name="m"} 0`)
	}
}

func TestShares(t *testing.T) {
	require.Equal(t, 3.5, engineAtWork().Experts.Gathers.Aggregation())
	require.Equal(t, 0.25, engineAtWork().Pools[0].Bubble())
	require.Zero(t, Gathers{}.Aggregation())
	require.Zero(t, Pool{}.Bubble())
}
