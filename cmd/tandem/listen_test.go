package main

import (
	"net"
	"net/netip"
	"path/filepath"
	"strconv"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
)

// parsed is the command line of serve.
func parsed(t *testing.T, args ...string) *ServeCmd {
	t.Helper()
	var c cli
	p, err := newParser(&c)
	require.NoError(t, err)
	_, err = p.Parse(append([]string{"serve"}, args...))
	require.NoError(t, err)
	return &c.Serve
}

// TestListen: by default this machine's programs alone; --host and --port change
// their part, of the environment's address too.
func TestListen(t *testing.T) {
	for args, want := range map[string]string{
		"": "127.0.0.1:8080", "--port 9000": "127.0.0.1:9000", "--host 0.0.0.0": "0.0.0.0:8080",
		"--host :: --port 0": "[::]:0",
		"--listen :80":       ":80", "--api-key k": "127.0.0.1:8080",
	} {
		got, err := parsed(t, strings.Fields(args)...).address()
		require.NoError(t, err)
		require.Equal(t, want, got, args)
	}
	t.Setenv("TANDEM_LISTEN", "10.0.0.1:80")
	for args, want := range map[string]string{"": "10.0.0.1:80", "--port 9000": "10.0.0.1:9000",
		"--listen 127.0.0.1:1": "127.0.0.1:1"} {
		got, err := parsed(t, strings.Fields(args)...).address()
		require.NoError(t, err)
		require.Equal(t, want, got, args)
	}
}

// TestURLs can be clicked.
func TestURLs(t *testing.T) {
	for addr, want := range map[string]string{
		"127.0.0.1:8080": "http://127.0.0.1:8080", "0.0.0.0:80": "http://127.0.0.1:80",
		"[::]:80":  "http://127.0.0.1:80",
		"[::1]:80": "http://[::1]:80", "10.0.0.7:80": "http://10.0.0.7:80",
	} {
		require.Equal(t, want, urlOf("http", net.TCPAddrFromAddrPort(netip.MustParseAddrPort(addr))))
	}
}

// TestServeModel serves as "vllm serve MODEL --port N" does.
func TestServeModel(t *testing.T) {
	_, port, err := net.SplitHostPort(freeAddr(t))
	require.NoError(t, err)
	dir := filepath.Join("..", "..", "testdata", "models", "qwen3_moe-window")
	p := start(t, "serve", dir, "--port", port, small)
	require.Equal(t, "http://127.0.0.1:"+port, p.url())
	n, err := strconv.Atoi(port)
	require.NoError(t, err)
	c := client{t: t, url: "http://localhost:" + strconv.Itoa(n)}
	_, text := c.get("/v1/models")
	require.Contains(t, text, "qwen3_moe-window")
	p.stopped()
}

// TestServingIsSaid when there is somebody to serve, and not before.
func TestServingIsSaid(t *testing.T) {
	control := freeAddr(t)
	front := start(t, "serve", "--control", control, "--listen", "127.0.0.1:0")
	url := front.url()
	require.NotContains(t, front.text(), "msg=serving")
	nodes := []*process{startNode(t, "expert", control), startNode(t, "attention", control)}
	require.Equal(t, url, front.says(`msg=serving url=(\S+)`))
	status, _ := client{t: t, url: url}.get("/health")
	require.Equal(t, 200, status)
	for _, n := range nodes {
		n.stopped()
	}
	front.stopped()
}
