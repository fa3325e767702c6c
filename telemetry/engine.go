package telemetry

import (
	"github.com/prometheus/client_golang/prometheus"

	"github.com/tandem-moe/tandem/telemetry/histogram"
)

// engine turns a source's snapshots into metrics.
type engine struct {
	source Source
	labels prometheus.Labels
}

func newEngine(labels prometheus.Labels, source Source) *engine {
	return &engine{source: source, labels: labels}
}

// Describe sends nothing: which pools and peers there are shows at a scrape.
func (e *engine) Describe(chan<- *prometheus.Desc) {}

// Collect implements prometheus.Collector.
func (e *engine) Collect(out chan<- prometheus.Metric) {
	s := e.source.Snapshot()
	c := collection{out: out, labels: e.labels}
	if s.Requests != nil {
		c.requests(*s.Requests)
	}
	if s.Cache != nil {
		c.cache(*s.Cache)
	}
	if s.Experts != nil {
		c.experts(*s.Experts)
	}
	if s.StepsGivenUp != nil {
		c.counter("tandem_steps_given_up_total",
			"Steps of micro-batches that were given up since an expert node was lost, to be repeated.", *s.StepsGivenUp)
	}
	c.durations(s)
	c.pools(s.Pools)
	c.peers(s.Peers)
}

// collection sends the metrics of one snapshot.
type collection struct {
	out    chan<- prometheus.Metric
	labels prometheus.Labels
}

func (c collection) requests(r Requests) {
	c.gauge("vllm:num_requests_running", "Sequences being computed.", float64(r.Running))
	c.gauge("vllm:num_requests_waiting", "Sequences that wait to be computed.", float64(r.Waiting))
}

func (c collection) cache(s Cache) {
	share := 0.0
	if s.Tokens > 0 {
		share = float64(s.Used) / float64(s.Tokens)
	}
	c.gauge("vllm:kv_cache_usage_perc", "Share of the KV cache in use; 1 is all.", share)
	c.gauge("tandem_kv_cache_tokens", "Size of the KV cache of all attention nodes, in tokens.", float64(s.Tokens))
	c.counter("vllm:prefix_cache_queries_total", "Prompt tokens looked up in the prefix cache.", s.PrefixQueries)
	c.counter("vllm:prefix_cache_hits_total", "Prompt tokens found in the prefix cache.", s.PrefixHits)
	c.counter("vllm:num_preemptions_total", "Sequences that gave up their cache to others.", s.Preemptions)
}

func (c collection) durations(s Snapshot) {
	if s.Attention != nil {
		c.histogram("tandem_attention_seconds", "Seconds of attention per micro-batch and layer, computing alone.", *s.Attention)
	}
	if s.Communication != nil {
		c.histogram("tandem_communication_seconds",
			"Seconds of a micro-batch's rows under way, from posting to completion.", *s.Communication)
	}
}

func (c collection) experts(e Experts) {
	c.histogram("tandem_expert_seconds", "Seconds of experts per micro-batch and layer, computing alone.", e.Seconds)
	c.histogram("tandem_rows_per_expert", "Rows of one expert in one grouped GEMM.", e.RowsPerExpert)
	c.gathers(e.Gathers)
}

func (c collection) gathers(g Gathers) {
	for reason, n := range g.EndedBy {
		c.counter("tandem_gathers_total", "Gathers of expert nodes, by what ended the wait.", n, "ended_by", reason)
	}
	c.counter("tandem_expert_calls_total", "Runs of a layer's experts.", g.Calls)
	c.counter("tandem_expert_messages_total", "Messages whose rows expert calls took.", g.Messages)
	c.counter("tandem_expert_rows_total", "Rows that expert calls took.", g.Rows)
	c.gauge("tandem_aggregation", "Rows per expert call ÷ rows per message, since the start.", g.Aggregation())
}

func (c collection) pools(pools []Pool) {
	for _, p := range pools {
		c.gauge("tandem_pool_nodes", "Nodes of the pool.", float64(p.Nodes), "pool", p.Name)
		c.gauge("tandem_bubble_share", "1 − busy/wall of the pool, since the start.", p.Bubble(), "pool", p.Name)
		c.seconds("tandem_pool_busy_seconds_total", "Seconds in which the pool's nodes computed.", p.Busy, "pool",
			p.Name)
		c.seconds("tandem_pool_wall_seconds_total", "Seconds in which the pool's nodes could have computed.", p.Wall,
			"pool", p.Name)
	}
}

func (c collection) peers(peers []Peer) {
	for _, p := range peers {
		c.peer(p, "peer", p.Name, "transport", p.Transport)
	}
}

func (c collection) peer(p Peer, labels ...string) {
	c.histogram("tandem_m2n_queue_seconds", "Seconds from posting a message until the transport takes it.", p.Queue, labels...)
	c.histogram("tandem_m2n_wire_seconds", "Seconds from when the transport takes a message until it is out.", p.Wire, labels...)
	c.histogram("tandem_m2n_latency_seconds", "Seconds from posting a message to its completion.", p.Latency, labels...)
	c.histogram("tandem_m2n_receive_seconds",
		"Seconds of a message from the peer, from the post (other processes: from its first byte) until it is handed out.", p.Receive, labels...)
	c.histogram("tandem_m2n_credit_wait_seconds", "Seconds for which a message waited for a credit.", p.CreditWait,
		labels...)
	c.gauge("tandem_m2n_queued", "Messages that are posted and that the transport has not taken.", float64(p.Queued),
		labels...)
	c.gauge("tandem_m2n_credit", "Messages that may be sent at once.", float64(p.Credit), labels...)
	for _, count := range []struct {
		name, help string
		value      uint64
	}{
		{"messages", "Messages.", p.Messages},
		{"bytes", "Bytes of payload.", p.Bytes},
		{"credit_waits", "Messages that had to wait for a credit.", p.CreditWaits},
		{"retries", "Tries to connect that failed.", p.Retries},
		{"retransmits", "TCP segments that were sent again.", p.Retransmits},
		{"losses", "Connections that were lost.", p.Losses},
		{"dropped", "Frames and connections of incarnations that are over.", p.Dropped},
	} {
		c.counter("tandem_m2n_"+count.name+"_total", count.help, count.value, labels...)
	}
}

// describe names a metric; pairs are label names and values, one after another.
func (c collection) describe(name, help string, pairs []string) (*prometheus.Desc, []string) {
	var names, values []string
	for i := 0; i < len(pairs); i += 2 {
		names, values = append(names, pairs[i]), append(values, pairs[i+1])
	}
	return prometheus.NewDesc(name, help, names, c.labels), values
}

func (c collection) gauge(name, help string, value float64, pairs ...string) {
	desc, values := c.describe(name, help, pairs)
	c.out <- prometheus.MustNewConstMetric(desc, prometheus.GaugeValue, value, values...)
}

func (c collection) counter(name, help string, value uint64, pairs ...string) {
	c.seconds(name, help, float64(value), pairs...)
}

// seconds is a counter that is no whole number.
func (c collection) seconds(name, help string, value float64, pairs ...string) {
	desc, values := c.describe(name, help, pairs)
	c.out <- prometheus.MustNewConstMetric(desc, prometheus.CounterValue, value, values...)
}

func (c collection) histogram(name, help string, s histogram.Snapshot, pairs ...string) {
	desc, values := c.describe(name, help, pairs)
	buckets := make(map[float64]uint64, len(s.Bounds))
	var below uint64
	for i, bound := range s.Bounds {
		below += s.Counts[i]
		buckets[bound] = below
	}
	c.out <- prometheus.MustNewConstHistogram(desc, s.Count(), s.Sum, buckets, values...)
}
