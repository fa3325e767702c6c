package main

import (
	"crypto/tls"
	"crypto/x509"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/tandem-moe/tandem/certs"
)

// authority makes one, with members, by the command line.
func authority(t *testing.T, members ...string) (dir string) {
	t.Helper()
	dir = filepath.Join(t.TempDir(), "certs")
	require.Contains(t, succeeds(t, "", "certs", "init", "--dir", dir), filepath.Join(dir, "ca.key"))
	for _, name := range members {
		require.Contains(t, succeeds(t, "", "certs", "issue", "--dir", dir, "--name", name),
			filepath.Join(dir, name, "tls.key"))
	}
	return dir
}

// TestCerts makes, lists, keeps and replaces certificates.
func TestCerts(t *testing.T) {
	dir := authority(t, "node-1")
	at := " --dir " + dir
	succeeds(t, "", strings.Fields("certs issue --name node-2 --host node-2.example.org --host 10.0.0.2 --days 20"+at)...)
	text := succeeds(t, "", strings.Fields("certs show"+at)...)
	for _, s := range []string{"node-1", "node-2", "tandem-cluster CA", "node-2.example.org", "10.0.0.2", "19 days",
		"364 days"} {
		require.Contains(t, text, s)
	}
	expired := expiredMember(t, dir, "old")
	mixed := filepath.Join(t.TempDir(), "mixed")
	require.NoError(t, os.CopyFS(mixed, os.DirFS(filepath.Join(dir, "node-1"))))
	require.NoError(t, os.Remove(filepath.Join(mixed, "ca.crt")))
	require.NoError(t, os.Chmod(filepath.Join(mixed, "tls.key"), 0o600)) // the copy is open
	for _, m := range []mistake{
		{"certs", usage, []string{"init", "issue", "show"}},
		{"certs init" + at, failed, []string{"ca.key", "exists", "--force"}},
		{"certs issue --name node-1" + at, failed, []string{"node-1/tls.key", "exists", "--force"}},
		{"certs issue --name a/b" + at, failed, []string{`"a/b"`}},
		{"certs issue --name c --host a:1" + at, failed, []string{`"a:1"`, "without a port"}},
		{"certs issue --name c --days 0" + at, usage, []string{"--days", `"0"`}},
		{"certs issue --name c --dir " + t.TempDir(), failed, []string{"ca.crt", "no such file"}},
		{"serve --tls " + dir + "/node-1", usage, []string{"--tls", "--control"}},
		{"serve --control 127.0.0.1:0 --listen 127.0.0.1:0 --tls " + expired, failed,
			[]string{expired + "/tls.crt", "ended at"}},
		{"serve --listen 127.0.0.1:0 --ssl-certfile " + dir + "/node-1/tls.crt", failed,
			[]string{"--ssl-certfile and --ssl-keyfile"}},
		{"serve --listen 127.0.0.1:0 --ssl-certfile " + dir + "/node-1/tls.crt --ssl-keyfile " + dir + "/ca.key",
			failed, []string{"node-1/tls.crt", "ca.key"}},
		{"node --role expert --join 127.0.0.1:1 --tls " + dir, failed, []string{"tls.crt", "no such file"}},
		{"node --role expert --join 127.0.0.1:1 --tls-ca " + dir + "/ca.crt", failed,
			[]string{"--tls-cert and --tls-key", "missing"}},
		{"node --role expert --join 127.0.0.1:1 --tls " + mixed + " --tls-ca " + authority(t) + "/ca.crt", failed,
			[]string{mixed + "/tls.crt", "/ca.crt", "certificate signed by unknown authority"}},
	} {
		m.refuses(t)
	}
	got := tandem(t, "", strings.Fields("certs show"+at)...)
	require.Equal(t, failed, got.code)
	require.Contains(t, got.out, "expired")
	require.Contains(t, got.err, expired+"/tls.crt")
	succeeds(t, "", strings.Fields("certs issue --force --name node-1"+at)...)
}

// expiredMember makes a member's folder whose certificate has ended.
func expiredMember(t *testing.T, dir, name string) string {
	t.Helper()
	then := time.Now().Add(-30 * time.Minute)
	files, err := certs.Folder(dir).Issue(certs.Request{Name: name, NotAfter: then.Add(time.Minute)}, then, false)
	require.NoError(t, err)
	return filepath.Dir(files.Cert)
}

// TestClusterWithTLS serves by members of one authority, and has no others: each
// that is refused ends with the reason, and the front end's log has its side.
func TestClusterWithTLS(t *testing.T) {
	dir, other := authority(t, "front", "node-1", "node-2"), authority(t, "node-1")
	control := freeAddr(t)
	front := start(t, "serve", "--control", control, "--listen", "127.0.0.1:0", "--tls", filepath.Join(dir, "front"))
	c := client{t: t, url: front.url()}
	for _, stranger := range []struct {
		flags []string
		node  []string // what it says
		front string   // what the front end says
	}{
		{[]string{"--tls", filepath.Join(other, "node-1")},
			[]string{"certificate signed by unknown authority", filepath.Join(other, "node-1", "ca.crt"), `"front"`},
			"bad certificate"},
		{nil, []string{"TLS is needed, and the node speaks without it"}, "the node speaks without it"},
	} {
		n := startNode(t, "expert", control, stranger.flags...)
		require.Equal(t, failed, n.ended().ExitCode())
		for _, s := range stranger.node {
			require.Contains(t, n.text(), s)
		}
		front.says(`authority=` + filepath.Join(dir, "front", "ca.crt") + `.*` + stranger.front)
	}
	nodes := []*process{
		startNode(t, "expert", control, "--tls", filepath.Join(dir, "node-1")),
		startNode(t, "attention", control, "--tls-ca", filepath.Join(dir, "ca.crt"),
			"--tls-cert", filepath.Join(dir, "node-2", "tls.crt"), "--tls-key",
			filepath.Join(dir, "node-2", "tls.key")),
	}
	c.healthy()
	continuesGo(t, c)
	addr := nodes[0].says(`msg=joined .*address=\S*?(127\.0\.0\.1:\d+)`)
	require.NoError(t, knows(t, addr, filepath.Join(dir, "node-2")), "nodes know each other")
	require.ErrorContains(t, knows(t, addr, filepath.Join(other, "node-1")), "certificate signed by unknown authority")
	for _, n := range nodes {
		n.stopped()
	}
	front.stopped()
}

// knows shakes hands with a node, as the member of a folder.
func knows(t *testing.T, addr, folder string) error {
	t.Helper()
	i, err := certs.Load(certs.InFolder(folder), time.Now())
	require.NoError(t, err)
	conn, err := tls.DialWithDialer(&net.Dialer{Timeout: patience}, "tcp", addr, i.TLS())
	if err != nil {
		return err
	}
	return conn.Close()
}

// TestKeysOfOthers: a private key that others may read is refused, wherever it is
// named, with what to run.
func TestKeysOfOthers(t *testing.T) {
	dir := authority(t, "node-1")
	key := filepath.Join(dir, "node-1", "tls.key")
	require.NoError(t, os.Chmod(key, 0o644)) //nolint:gosec // too open, on purpose
	for _, args := range []string{
		"node --role expert --join 127.0.0.1:1 --tls " + filepath.Join(dir, "node-1"),
		"serve --listen 127.0.0.1:0 --control 127.0.0.1:0 --tls " + filepath.Join(dir, "node-1"),
		"serve --listen 127.0.0.1:0 --ssl-certfile " + filepath.Join(dir, "node-1", "tls.crt") + " --ssl-keyfile " +
			key,
	} {
		mistake{args, failed, []string{"mode 0644", "run chmod 0600 " + key}}.refuses(t)
	}
}

// TestHTTPS serves the API to clients that check the server's name.
func TestHTTPS(t *testing.T) {
	dir := authority(t)
	succeeds(t, "", "certs", "issue", "--dir", dir, "--name", "api", "--host", "127.0.0.1")
	p := start(t, "serve", "--listen", "127.0.0.1:0", small,
		"--ssl-certfile", filepath.Join(dir, "api", "tls.crt"), "--ssl-keyfile", filepath.Join(dir, "api", "tls.key"))
	url := p.url() + "/v1/models"
	require.Regexp(t, "^https://127.0.0.1:", url)
	_, err := http.Get(url)
	require.ErrorContains(t, err, "unknown authority")
	text, err := os.ReadFile(filepath.Join(dir, "ca.crt"))
	require.NoError(t, err)
	pool := x509.NewCertPool()
	require.True(t, pool.AppendCertsFromPEM(text))
	transport := &http.Transport{TLSClientConfig: &tls.Config{RootCAs: pool, MinVersion: tls.VersionTLS13},
		ForceAttemptHTTP2: true}
	defer transport.CloseIdleConnections()
	response, err := (&http.Client{Transport: transport, Timeout: patience}).Get(url)
	require.NoError(t, err)
	defer response.Body.Close()
	require.Equal(t, http.StatusOK, response.StatusCode)
	for range 30 { // strangers who speak no TLS hear so, and do not fill the log
		response, err := http.Get("http" + strings.TrimPrefix(url, "https"))
		require.NoError(t, err)
		require.NoError(t, response.Body.Close())
		require.Equal(t, http.StatusBadRequest, response.StatusCode)
	}
	p.says("a TLS handshake failed.*speaks HTTP, and this is HTTPS")
	p.stopped()
	require.LessOrEqual(t, strings.Count(p.text(), "a TLS handshake failed"), 10)
}

// TestTLSNeedsTLS: a node with certificates does not join a front end without.
func TestTLSNeedsTLS(t *testing.T) {
	dir, control := authority(t, "node-1"), freeAddr(t)
	front := start(t, "serve", "--control", control, "--listen", "127.0.0.1:0")
	front.url()
	n := startNode(t, "expert", control, "--tls", filepath.Join(dir, "node-1"))
	require.Equal(t, failed, n.ended().ExitCode())
	require.Contains(t, n.text(), "the front end speaks without TLS, and the node with it")
	front.stopped()
}
