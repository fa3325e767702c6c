package main

import (
	"net/http"
	"os"
	"os/exec"
	"strings"
	"syscall"
	"testing"

	"github.com/stretchr/testify/require"
)

// TestServeOutlivesItsLog: the reader of a server's log leaves while a request
// runs. The server goes on, logs to nobody, and drains as ever.
func TestServeOutlivesItsLog(t *testing.T) {
	p := start(t, "serve", "--listen", "127.0.0.1:0", small, "--log-level", "debug")
	c := client{t: t, url: p.url()}
	s := c.stream("gopher", 800)
	p.deafen()
	c.greedy("gopher", "package main\n", 4)
	p.stop() // which is logged
	require.Equal(t, "length", s.rest().Choices[0].FinishReason)
	require.Equal(t, 0, p.ended().ExitCode())
}

// TestClusterOutlivesItsLogs: front end and nodes log while they admit each
// other, when nobody reads that any more.
func TestClusterOutlivesItsLogs(t *testing.T) {
	control, status := freeAddr(t), freeAddr(t)
	front := start(t, "serve", "--control", control, "--listen", "127.0.0.1:0")
	c := client{t: t, url: front.url()}
	front.deafen()
	alone := start(t, "node", "--role", "expert", "--join", freeAddr(t), small, "--threads", "1", "--metrics", status)
	alone.says("trying to join")
	alone.deafen()
	nodes := []*process{startNode(t, "expert", control), startNode(t, "attention", control)}
	c.healthy()
	continuesGo(t, c)
	code, _ := client{t: t, url: "http://" + status}.get("/health")
	require.Equal(t, http.StatusServiceUnavailable, code, "a node that tries to join is there and not ready")
	alone.stop()
	require.Equal(t, 0, alone.ended().ExitCode())
	front.stop()
	require.Equal(t, 0, front.ended().ExitCode())
	for _, n := range nodes {
		n.says("the front end is stopping")
	}
}

// TestFilterEndsWithItsReader: "tandem tokenize | head" ends as other filters do,
// by the signal and without a word.
func TestFilterEndsWithItsReader(t *testing.T) {
	r, w, err := os.Pipe()
	require.NoError(t, err)
	require.NoError(t, r.Close())
	c := command(t.Context(), []string{"tokenize"})
	var stderr strings.Builder
	c.Stdin, c.Stdout, c.Stderr = strings.NewReader("package main"), w, &stderr
	err = c.Run()
	require.NoError(t, w.Close())
	var exit *exec.ExitError
	require.ErrorAs(t, err, &exit)
	status, ok := exit.Sys().(syscall.WaitStatus)
	require.True(t, ok)
	require.Equal(t, syscall.SIGPIPE, status.Signal())
	require.Empty(t, stderr.String())
}
