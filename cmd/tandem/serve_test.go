package main

import (
	"encoding/json"
	"net/http"
	"os"
	"path/filepath"
	"syscall"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/tandem-moe/tandem/internal/oracle"
)

// gopherReference is what Hugging Face continues a prompt of Go code with.
type gopherReference struct {
	Prompt string  `json:"prompt"`
	Greedy []int32 `json:"greedy"`
	Text   string  `json:"text"`
}

func gopherReferences(t *testing.T) []gopherReference {
	t.Helper()
	text, err := os.ReadFile(filepath.Join("..", "..", "model", "gopher", "reference.json"))
	require.NoError(t, err)
	var list []gopherReference
	require.NoError(t, json.Unmarshal(text, &list))
	require.NotEmpty(t, list)
	return list
}

// small keeps what a test's server holds small.
const small = "--kv-memory=64MiB"

// continuesGo checks that a server completes Go code as Hugging Face does.
func continuesGo(t *testing.T, c client) {
	t.Helper()
	for _, r := range gopherReferences(t) {
		got := c.greedy("gopher", r.Prompt, len(r.Greedy)).Choices[0]
		require.Equal(t, r.Greedy, got.TokenIDs, "%q", r.Prompt)
		require.Equal(t, r.Text, got.Text)
	}
}

// TestServe does what a newcomer does: serve, complete Go code, look, stop.
func TestServe(t *testing.T) {
	p := start(t, "serve", "--listen", "127.0.0.1:0", small)
	c := client{t: t, url: p.url()}
	c.healthy()
	continuesGo(t, c)
	requests := float64(len(gopherReferences(t)))
	require.Equal(t, requests, c.metric("vllm:request_success_total"))
	require.Equal(t, requests, c.metric("vllm:time_to_first_token_seconds_count"))
	for _, name := range []string{"vllm:num_requests_running", "vllm:num_requests_waiting",
		"vllm:kv_cache_usage_perc"} {
		require.Zero(t, c.metric(name), name)
	}
	for _, name := range []string{
		"vllm:prompt_tokens_total", "vllm:generation_tokens_total", "vllm:inter_token_latency_seconds_count",
		"vllm:e2e_request_latency_seconds_sum",
		"tandem_attention_seconds_count", "tandem_expert_seconds_count", "tandem_communication_seconds_count",
		"tandem_rows_per_expert_sum", "tandem_aggregation", "tandem_kv_cache_tokens", "tandem_pool_nodes",
		"tandem_m2n_bytes_total",
	} {
		require.Positive(t, c.metric(name), name)
	}
	s := c.stream("gopher", 1500)
	p.stop()
	p.says("draining")
	status, text := c.get("/health")
	require.Equal(t, http.StatusServiceUnavailable, status)
	require.Contains(t, text, "shutting down")
	status, _ = c.post("/v1/completions", object{"model": "gopher", "prompt": "x", "max_tokens": 1})
	require.Equal(t, http.StatusServiceUnavailable, status)
	require.Equal(t, "length", s.rest().Choices[0].FinishReason)
	require.Equal(t, 0, p.ended().ExitCode())
}

// TestGraceOfServeEnds: a request that takes longer than the grace ends with an
// error that says so, and the process in good order.
func TestGraceOfServeEnds(t *testing.T) {
	p := start(t, "serve", "--listen", "127.0.0.1:0", small, "--grace", "50ms")
	s := client{t: t, url: p.url()}.stream("gopher", 2000)
	p.stop()
	var last string
	for s.lines.Scan() {
		if line := s.lines.Text(); line != "" {
			last = line
		}
	}
	require.Contains(t, last, "the server is shutting down")
	require.Equal(t, 0, p.ended().ExitCode())
}

// TestSecondSignalEnds: who does not want to wait sends it twice.
func TestSecondSignalEnds(t *testing.T) {
	p := start(t, "serve", "--listen", "127.0.0.1:0", small)
	client{t: t, url: p.url()}.stream("gopher", 2000)
	p.stop()
	p.says("draining")
	p.stop()
	require.Equal(t, 128+int(syscall.SIGTERM), p.ended().ExitCode())
}

// TestServeFolder serves a Hugging Face folder, by several nodes, under names of
// the operator's choice, to those who have a key.
func TestServeFolder(t *testing.T) {
	const name = "qwen3_moe-window"
	dir := filepath.Join("..", "..", "testdata", "models", name)
	p := start(t, "serve", "--listen", "127.0.0.1:0", small, "--model", dir,
		"--served-model-name", "ada", "--served-model-name", "lovelace", "--api-key", "secret", "--api-key", "other",
		"--attention", "2", "--experts", "3", "--micro-batches", "2")
	c := client{t: t, url: p.url()}
	c.healthy()
	for _, key := range []string{"", "wrong"} {
		c.key = key
		status, text := c.get("/v1/models")
		require.Equal(t, http.StatusUnauthorized, status)
		require.Contains(t, text, "invalid_api_key")
	}
	c.key = "other"
	_, text := c.get("/v1/models")
	require.Contains(t, text, `"ada"`)
	require.Contains(t, text, `"lovelace"`)
	status, _ := c.post("/v1/completions", object{"model": name, "prompt": "x"})
	require.Equal(t, http.StatusNotFound, status, "the folder's name is not one of the model's any more")
	reference := oracle.Load(t, dir)
	for _, g := range reference.Greedy {
		got := c.greedy("lovelace", reference.Prompts[g.Prompt], len(g.Tokens))
		require.Equal(t, g.Tokens, got.Choices[0].TokenIDs)
	}
	require.EqualValues(t, 5, c.metric("tandem_pool_nodes"))
	for _, node := range []string{"attention-1", "expert-2"} {
		require.Contains(t, p.text(), node, "the table of nodes")
	}
	p.stopped()
}

// Nodes that must be on this host share its cores, and get one micro-batch.
func TestMicroBatchesByDefault(t *testing.T) {
	for control, want := range map[string]int{
		"127.0.0.1:7000": 1, "127.1.2.3:7000": 1, "[::1]:7000": 1, "localhost:7000": 1,
		"0.0.0.0:7000": 2, ":7000": 2, "10.0.0.1:7000": 2, "front:7000": 2, "nonsense": 2,
	} {
		require.Equal(t, want, microBatchesFor(control), control)
		require.Equal(t, want, (&ServeCmd{Control: control}).options(nil).MicroBatches, control)
		require.Equal(t, 3, (&ServeCmd{Control: control, MicroBatches: 3}).options(nil).MicroBatches, control)
	}
}
