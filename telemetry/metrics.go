package telemetry

import (
	"net/http"
	"sync/atomic"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/collectors"
	"github.com/prometheus/client_golang/prometheus/promhttp"
)

// Buckets are vLLM's, with finer ones below for small models.
var (
	firstTokenBuckets = []float64{
		0.001, 0.005, 0.01, 0.02, 0.04, 0.06, 0.08, 0.1, 0.25, 0.5, 0.75, 1, 2.5, 5, 7.5, 10, 20, 40, 80, 160, 640,
		2560,
	}
	interTokenBuckets = []float64{
		0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.075, 0.1, 0.15, 0.2, 0.3, 0.4, 0.5, 0.75, 1, 2.5, 5, 7.5, 10,
		20, 40, 80,
	}
	requestBuckets = []float64{
		0.05, 0.1, 0.2, 0.3, 0.5, 0.8, 1, 1.5, 2, 2.5, 5, 10, 15, 20, 30, 40, 50, 60, 120, 240, 480, 960, 1920, 7680,
	}
	tokenBuckets = []float64{1, 2, 5, 10, 20, 50, 100, 200, 500, 1000, 2000, 5000, 10000, 20000, 50000, 100000}
)

// Metrics is the metrics of one served model, in a registry of its own.
type Metrics struct {
	registry *prometheus.Registry
	now      func() time.Time

	firstToken, interToken, request prometheus.Histogram
	promptLength, outputLength      prometheus.Histogram
	promptTokens, outputTokens      prometheus.Counter
	ended                           *prometheus.CounterVec

	// prompted and generated are the same counts as promptTokens and outputTokens.
	prompted, generated atomic.Uint64
	source              Source // nil: requests alone are counted
}

// New makes the metrics of a model. A nil source: only requests are counted.
func New(model string, source Source) *Metrics {
	m := &Metrics{registry: prometheus.NewRegistry(), now: time.Now, source: source}
	labels := prometheus.Labels{"model_name": model}
	m.firstToken = histogramOf(labels, "vllm:time_to_first_token_seconds",
		"Seconds from a sequence's submission to its first token.", firstTokenBuckets)
	m.interToken = histogramOf(labels, "vllm:inter_token_latency_seconds", "Seconds between two tokens of a sequence.",
		interTokenBuckets)
	m.request = histogramOf(labels, "vllm:e2e_request_latency_seconds",
		"Seconds from a sequence's submission to its end.", requestBuckets)
	m.promptLength = histogramOf(labels, "vllm:request_prompt_tokens", "Prompt tokens of a finished sequence.",
		tokenBuckets)
	m.outputLength = histogramOf(labels, "vllm:request_generation_tokens", "Output tokens of a finished sequence.",
		tokenBuckets)
	m.promptTokens = counterOf(labels, "vllm:prompt_tokens_total",
		"Prompt tokens of sequences that brought a first token.")
	m.outputTokens = counterOf(labels, "vllm:generation_tokens_total", "Output tokens.")
	m.ended = prometheus.NewCounterVec(prometheus.CounterOpts{
		Name: "vllm:request_success_total", Help: "Sequences by the reason for which they ended.", ConstLabels: labels,
	}, []string{"finished_reason"})
	for _, reason := range []string{"stop", "length", "abort", "error"} {
		m.ended.WithLabelValues(reason)
	}
	m.registry.MustRegister(m.firstToken, m.interToken, m.request, m.promptLength, m.outputLength, m.promptTokens,
		m.outputTokens, m.ended)
	registerProcess(m.registry)
	if source != nil {
		m.registry.MustRegister(newEngine(labels, source))
	}
	return m
}

func registerProcess(r *prometheus.Registry) {
	r.MustRegister(collectors.NewGoCollector(), collectors.NewProcessCollector(collectors.ProcessCollectorOpts{}))
}

// NodeHandler serves the metrics of a node that is alone in its process: what its
// source counts. Requests are their front end's to count.
func NodeHandler(model string, source Source) http.Handler {
	r := prometheus.NewRegistry()
	registerProcess(r)
	r.MustRegister(newEngine(prometheus.Labels{"model_name": model}, source))
	return promhttp.HandlerFor(r, promhttp.HandlerOpts{})
}

func histogramOf(labels prometheus.Labels, name, help string, buckets []float64) prometheus.Histogram {
	return prometheus.NewHistogram(prometheus.HistogramOpts{Name: name, Help: help, ConstLabels: labels,
		Buckets: buckets})
}

func counterOf(labels prometheus.Labels, name, help string) prometheus.Counter {
	return prometheus.NewCounter(prometheus.CounterOpts{Name: name, Help: help, ConstLabels: labels})
}

// Registry is for further metrics of the process.
func (m *Metrics) Registry() *prometheus.Registry { return m.registry }

// Handler serves the metrics in Prometheus' formats.
func (m *Metrics) Handler() http.Handler {
	return promhttp.HandlerFor(m.registry, promhttp.HandlerOpts{})
}

// Sequence follows one sequence from its submission, on one goroutine at a time.
func (m *Metrics) Sequence(promptTokens int) *Sequence {
	return &Sequence{metrics: m, prompt: promptTokens, submitted: m.now()}
}

// Sequence is one sequence's life; it satisfies completion.SequenceObserver.
type Sequence struct {
	metrics         *Metrics
	prompt, output  int
	submitted, last time.Time
}

// Token notes an output token.
func (s *Sequence) Token(int) {
	m, now := s.metrics, s.metrics.now()
	if s.output == 0 {
		m.firstToken.Observe(now.Sub(s.submitted).Seconds())
		m.promptTokens.Add(float64(s.prompt))
		m.prompted.Add(uint64(s.prompt))
	} else {
		m.interToken.Observe(now.Sub(s.last).Seconds())
	}
	s.output++
	s.last = now
	m.outputTokens.Inc()
	m.generated.Add(1)
}

// End notes the end, and its reason.
func (s *Sequence) End(reason string) {
	m := s.metrics
	m.ended.WithLabelValues(reason).Inc()
	if reason != "stop" && reason != "length" {
		return
	}
	m.request.Observe(m.now().Sub(s.submitted).Seconds())
	m.promptLength.Observe(float64(s.prompt))
	m.outputLength.Observe(float64(s.output))
}
