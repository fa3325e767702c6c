package main

import (
	"fmt"
	"net"
	"net/http"
	"regexp"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/tandem-moe/tandem/api/apitest"
)

// freeAddr is an address that nobody listens at.
func freeAddr(t *testing.T) string {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	require.NoError(t, err)
	defer l.Close()
	return l.Addr().String()
}

// startNode starts a node of the embedded model.
func startNode(t *testing.T, role, join string, more ...string) *process {
	t.Helper()
	return start(t, append([]string{"node", "--role", role, "--join", join, small, "--threads", "1"}, more...)...)
}

// TestCluster runs front end, two attention and two expert nodes as processes,
// some before the front end and some after it. The cluster serves as one process
// does, outlives its front end, and ends in good order.
func TestCluster(t *testing.T) {
	control, listen, status := freeAddr(t), freeAddr(t), freeAddr(t)
	nodes := []*process{startNode(t, "expert", control, "--metrics", status), startNode(t, "attention", control)}
	nodes[0].says("trying to join")
	front := start(t, "serve", "--control", control, "--listen", listen, "--experts", "2")
	c := client{t: t, url: front.url()}
	refused, text := c.post("/v1/completions", object{"model": "gopher", "prompt": "x", "max_tokens": 1})
	require.Equal(t, http.StatusServiceUnavailable, refused)
	require.Contains(t, text, "2 expert nodes are ready")
	nodes = append(nodes, startNode(t, "attention", control, "--metrics", "127.0.0.1:0"), startNode(t, "expert", control))
	c.healthy()
	nodes[1].says("msg=ready")
	nodes[2].says("msg=ready")
	continuesGo(t, c)
	t.Run("client", func(t *testing.T) {
		apitest.Run(t, apitest.Target{
			URL: c.url, Model: "gopher", Prompt: "package main\n\nimport \"fmt\"\n\n// héllo\nfunc main() {\n", Tokens: 24, Chat: true,
		})
	})
	front.says(`attention-1\S* .* ready`) // in the table of nodes
	tellsOfItself(t, client{t: t, url: "http://" + status}, "expert", "tandem_rows_per_expert_sum", "tandem_gathers_total", "tandem_expert_seconds_count")
	tellsOfItself(t, client{t: t, url: "http://" + nodes[2].says(`/health" address=(\S+)`)}, "attention", "tandem_attention_seconds_count", "tandem_kv_cache_tokens")

	front.stopped()
	for _, n := range nodes {
		n.says("the front end is stopping")
	}
	front = start(t, "serve", "--control", control, "--listen", listen, "--experts", "2")
	front.url()
	c.healthy()
	continuesGo(t, c)
	for _, n := range []*process{nodes[0], nodes[3]} {
		places := regexp.MustCompile(`msg=joined node=expert-\d+\S* place=(\d)`).FindAllStringSubmatch(n.text(), -1)
		require.GreaterOrEqual(t, len(places), 2)
		require.Equal(t, places[0][1], places[len(places)-1][1], "the node has the place back whose experts it had loaded")
	}
	nodes[3] = outlivesExpert(t, c, control, nodes[3])
	for _, n := range nodes[1:3] {
		n.says(`msg="an expert node is lost: requests wait for one in its place"`)
	}
	require.Contains(t, nodes[1].text()+nodes[2].text(), `"steps given up"=1`)
	drains(t, c, nodes, client{t: t, url: "http://" + status})
	front.stopped()
}

// outlivesExpert kills an expert node while a stream runs, and starts another, which it
// returns: the stream goes on to the text that an undisturbed run gives.
func outlivesExpert(t *testing.T, c client, control string, expert *process) *process {
	t.Helper()
	const tokens = 600
	want := c.greedy("gopher", streamed, tokens).Choices[0].Text
	s := c.stream("gopher", tokens)
	require.NoError(t, expert.cmd.Process.Kill())
	another := startNode(t, "expert", control)
	require.Equal(t, "length", s.rest().Choices[0].FinishReason)
	require.Equal(t, want, s.text)
	return another
}

// tellsOfItself asks a node for its health and its metrics.
func tellsOfItself(t *testing.T, c client, role string, metrics ...string) {
	t.Helper()
	status, text := c.get("/health")
	require.Equal(t, http.StatusOK, status)
	require.Contains(t, text, `"status":"ready"`)
	require.Contains(t, text, fmt.Sprintf(`"node":"%s-`, role))
	require.Equal(t, 1.0, c.metric("tandem_pool_nodes"))
	for _, name := range metrics {
		require.Positive(t, c.metric(name), name)
	}
	status, text = c.get("/debug/m2n")
	require.Equal(t, http.StatusOK, status)
	require.Regexp(t, `(?m)^`+role+`-\d+\S* +[a-z]+-\d+\S* +\d+ +\w+ +up `, text)
}

// drains stops all nodes while a request runs: it is finished, the next one is
// refused, and the nodes end. The first node tells its status.
func drains(t *testing.T, c client, nodes []*process, first client) {
	t.Helper()
	s := c.stream("gopher", 1500)
	for _, n := range nodes {
		n.stop()
	}
	nodes[0].says("draining")
	status, text := first.get("/health")
	require.Equal(t, http.StatusServiceUnavailable, status)
	require.Contains(t, text, `"status":"draining"`)
	require.Eventually(t, func() bool {
		status, _ := c.get("/health")
		return status == http.StatusServiceUnavailable
	}, patience, 10*time.Millisecond)
	require.Equal(t, "length", s.rest().Choices[0].FinishReason)
	for _, n := range nodes {
		require.Equal(t, 0, n.ended().ExitCode())
		require.Contains(t, n.text(), "draining")
	}
	status, text = c.post("/v1/completions", object{"model": "gopher", "prompt": "x", "max_tokens": 1})
	require.Equal(t, http.StatusServiceUnavailable, status)
	require.Contains(t, text, "no attention node is ready, 0 of 2 expert nodes are ready")
}

// TestUnreachableExpertIsSaid by everybody whom an operator may ask: the API, its
// health, the front end's log, and the nodes. No request waits for it.
func TestUnreachableExpertIsSaid(t *testing.T) {
	control, wrong := freeAddr(t), freeAddr(t)
	front := start(t, "serve", "--control", control, "--listen", "127.0.0.1:0")
	attention := startNode(t, "attention", control, "--transport", "tcp", "--metrics", "127.0.0.1:0")
	expert := startNode(t, "expert", control, "--transport", "tcp", "--advertise", wrong, "--metrics", "127.0.0.1:0")
	c := client{t: t, url: front.url()}
	// Ids tell the front end's life behind their number.
	why := regexp.MustCompile(`attention-0\.\w+ cannot reach expert-0\.\w+ at ` + regexp.QuoteMeta(wrong) + ": connection refused")
	require.Eventually(t, func() bool {
		status, text := c.get("/health")
		return status == http.StatusServiceUnavailable && why.MatchString(text)
	}, patience, 10*time.Millisecond)
	status, text := c.post("/v1/completions", object{"model": "gopher", "prompt": "x", "max_tokens": 1})
	require.Equal(t, http.StatusServiceUnavailable, status)
	require.Regexp(t, why, text)
	front.says(`level=WARN msg="nodes cannot reach each other" reason="` + why.String())
	attention.says(`an expert node cannot be reached: this node is not ready" peer=expert-0`)
	expert.says(`this node cannot be reached: --advertise`)
	for _, p := range []*process{attention, expert} {
		own := client{t: t, url: "http://" + p.says(`/health" address=(\S+)`)}
		require.Eventually(t, func() bool {
			status, text := own.get("/health")
			return status == http.StatusServiceUnavailable && why.MatchString(text) && strings.Contains(text, `"status":"joined"`)
		}, patience, 10*time.Millisecond)
	}
	for _, p := range []*process{attention, expert, front} {
		p.stopped()
	}
}

// TestNodeStopsWhereverItIs: nobody admits it, and then it waits for others.
func TestNodeStopsWhereverItIs(t *testing.T) {
	control := freeAddr(t)
	alone := startNode(t, "attention", control)
	alone.says("trying to join")
	alone.stopped()
	front := start(t, "serve", "--control", control, "--listen", "127.0.0.1:0")
	waits := startNode(t, "attention", control, "--metrics", "127.0.0.1:0")
	c := client{t: t, url: "http://" + waits.says(`/health" address=(\S+)`)}
	waits.says("msg=joined")
	status, text := c.get("/health")
	require.Equal(t, http.StatusServiceUnavailable, status)
	require.Contains(t, text, `"status":"joined"`)
	waits.stopped()
	front.stopped()
}
