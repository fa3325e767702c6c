package docs

import (
	"context"
	"fmt"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

// patience bounds each wait, for a block's end as for a server: far more than
// it takes.
const patience = 2 * time.Minute

// substitution replaces what a block needs and a test has not got.
type substitution struct {
	pattern *regexp.Regexp
	reason  string
	with    func(r *reader, found string) string
}

// substitutions are all that is changed in a block before it runs. What can be
// provided is provided instead: see folder.
var substitutions = []substitution{
	{regexp.MustCompile(`\b10\.0\.0\.\d+:\d+\b`), "addresses of other machines: ports of this one, at an address that is not loopback where it has one",
		func(r *reader, address string) string { return r.local(address) }},
	{regexp.MustCompile(`\blocalhost:8080\b`), "a port that others may have",
		func(r *reader, _ string) string { return r.listen }},
	{regexp.MustCompile(`\bgo run \./cmd/tandem\b`), "built once; .ci/run alone runs it as written",
		func(*reader, string) string { return "tandem" }},
	{regexp.MustCompile(`\bgo test \./\.\.\.`), "a test that runs all tests has no end; .ci/run alone runs it as written",
		func(r *reader, _ string) string { return "go list -C '" + r.root + "' ./..." }},
}

// serverLine is a command that runs until it is stopped.
var serverLine = regexp.MustCompile(`(?m)^\s*tandem\s+(serve|node)\b`)

// noteServers stands for tandem in the path of a block. A reader gives each
// server a terminal of its own; here it notes their arguments, and the test
// starts them when the block is done.
const noteServers = `#!/bin/sh
case "$1" in
serve | node) printf '%s\0' "$@" >"$(mktemp "$TEST_SERVERS/XXXXXX")" ;;
*) exec "$TEST_TANDEM" "$@" ;;
esac
`

// curlFails makes curl fail where the answer is an error, and where there is none.
const curlFails = "fail\nmax-time = 60\nsilent\nshow-error\n"

// reader is somebody who reads a document and pastes its blocks, one after
// another, each in a fresh folder. Servers run until the next block starts some.
type reader struct {
	t         *testing.T
	root      string // of the module
	binary    string
	bin       string // the folder in the path
	listen    string // of the API
	addresses map[string]string
	servers   []*server
}

// server is a process that a block started.
type server struct {
	args []string
	cmd  *exec.Cmd
	log  *strings.Builder
	done chan struct{} // closed when it has ended
}

func newReader(t *testing.T, binary string) *reader {
	t.Helper()
	r := &reader{t: t, binary: binary, bin: t.TempDir()}
	var err error
	r.root, err = filepath.Abs(root)
	require.NoError(t, err)
	require.NoError(t, os.WriteFile(filepath.Join(r.bin, "tandem"), []byte(noteServers), 0o755))
	t.Cleanup(r.kill)
	return r
}

// folder is a fresh one, with the models that documents name: DIR, and one in
// the home folder.
func (r *reader) folder(t *testing.T) string {
	t.Helper()
	dir := t.TempDir()
	model := filepath.Join(r.root, "testdata", "models", "qwen3_moe-llama3")
	require.NoError(t, os.MkdirAll(filepath.Join(dir, "home", "models"), 0o755))
	require.NoError(t, os.Symlink(model, filepath.Join(dir, "DIR")))
	require.NoError(t, os.Symlink(model, filepath.Join(dir, "home", "models", "Qwen3-30B-A3B")))
	require.NoError(t, os.WriteFile(filepath.Join(dir, "home", ".curlrc"), []byte(curlFails), 0o600))
	require.NoError(t, os.Mkdir(filepath.Join(dir, "servers"), 0o755))
	return dir
}

// environment is that of blocks and of their servers: no setting of whoever runs
// the test.
func (r *reader) environment(dir string) []string {
	kept := slices.DeleteFunc(os.Environ(), func(v string) bool {
		return strings.HasPrefix(v, "TANDEM_") || strings.HasPrefix(strings.ToLower(v), "http_proxy=")
	})
	return append(kept,
		"PATH="+r.bin+string(os.PathListSeparator)+os.Getenv("PATH"), "HOME="+filepath.Join(dir, "home"),
		"TEST_SERVERS="+filepath.Join(dir, "servers"), "TEST_TANDEM="+r.binary, "TANDEM_LISTEN="+r.listen)
}

// local is the address here that stands for one elsewhere.
func (r *reader) local(address string) string {
	if r.addresses[address] == "" {
		r.addresses[address] = freeAddress(r.t, ownAddress(r.t))
	}
	return r.addresses[address]
}

// ownAddress is an address of this machine that is not loopback, as those in
// documents are not: what a cluster may do depends on it.
func ownAddress(t *testing.T) string {
	t.Helper()
	all, err := net.InterfaceAddrs()
	require.NoError(t, err)
	for _, a := range all {
		if n, ok := a.(*net.IPNet); ok && n.IP.To4() != nil && n.IP.IsGlobalUnicast() {
			return n.IP.String()
		}
	}
	return loopback
}

const loopback = "127.0.0.1"

func freeAddress(t *testing.T, host string) string {
	t.Helper()
	l, err := net.Listen("tcp", host+":0")
	require.NoError(t, err)
	defer l.Close()
	return l.Addr().String()
}

// paste runs a block, and waits until the servers that it started are healthy.
func (r *reader) paste(t *testing.T, text string) {
	t.Helper()
	asks := strings.Contains(text, "localhost:8080")
	if starts := serverLine.MatchString(strings.ReplaceAll(text, "go run ./cmd/", "")); starts || asks &&
		len(r.servers) == 0 {
		r.stop(t)
		r.listen, r.addresses = freeAddress(t, loopback), map[string]string{}
		if !starts { // the document takes one for granted
			r.start(t, r.folder(t), []string{"serve"})
			r.healthy(t)
		}
	}
	for _, s := range substitutions {
		text = s.pattern.ReplaceAllStringFunc(text, func(found string) string { return s.with(r, found) })
	}
	dir := r.folder(t)
	r.run(t, dir, text)
	r.startNoted(t, dir)
}

// run runs a block by bash, which ends at the first command that fails.
func (r *reader) run(t *testing.T, dir, text string) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	c := exec.CommandContext(ctx, "bash", "-euo", "pipefail", "-c", text)
	c.Dir, c.Env, c.WaitDelay = dir, append(r.environment(dir), goFolders(t)...), time.Second
	out, err := c.CombinedOutput()
	require.NoError(t, err, "%s\n%s", text, out)
	t.Logf("%s%s", text, out)
}

// goFolders are Go's, which the home folder of a block is not to change.
func goFolders(t *testing.T) []string {
	t.Helper()
	out, err := exec.CommandContext(t.Context(), "go", "env", "GOCACHE", "GOMODCACHE", "GOPATH").Output()
	require.NoError(t, err)
	values := strings.Split(strings.TrimSpace(string(out)), "\n")
	require.Len(t, values, 3)
	return []string{"GOCACHE=" + values[0], "GOMODCACHE=" + values[1], "GOPATH=" + values[2]}
}

// startNoted starts the servers that a block has noted.
func (r *reader) startNoted(t *testing.T, dir string) {
	t.Helper()
	notes, err := filepath.Glob(filepath.Join(dir, "servers", "*"))
	require.NoError(t, err)
	for _, note := range notes {
		args, err := os.ReadFile(note)
		require.NoError(t, err)
		r.start(t, dir, strings.Split(strings.TrimSuffix(string(args), "\x00"), "\x00"))
	}
	if len(notes) > 0 {
		r.healthy(t)
	}
}

func (r *reader) start(t *testing.T, dir string, args []string) {
	t.Helper()
	s := &server{args: args, cmd: exec.CommandContext(context.WithoutCancel(t.Context()), r.binary, args...),
		log: &strings.Builder{}, done: make(chan struct{})}
	s.cmd.Dir, s.cmd.Env, s.cmd.Stdout, s.cmd.Stderr = dir, r.environment(dir), s.log, s.log
	require.NoError(t, s.cmd.Start())
	r.servers = append(r.servers, s)
	go func() {
		defer close(s.done)
		_ = s.cmd.Wait() // its state tells
	}()
}

// healthy waits until the API serves, which it does when all nodes that it needs
// are there.
func (r *reader) healthy(t *testing.T) {
	t.Helper()
	late := time.After(patience)
	for {
		answer := r.health(t)
		if answer == "200 OK" {
			return
		}
		for _, s := range r.servers {
			if s.ended() {
				t.Errorf("tandem %s ended by itself (%v):\n%s", strings.Join(s.args, " "), s.cmd.ProcessState, s.log)
				r.kill()
				t.FailNow()
			}
		}
		select {
		case <-late:
			servers := r.servers
			r.kill()
			t.Fatalf("/health: %s; what the servers say:\n%s", answer, logs(servers))
		case <-time.After(50 * time.Millisecond):
		}
	}
}

func (r *reader) health(t *testing.T) string {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 5*time.Second)
	defer cancel()
	q, err := http.NewRequestWithContext(ctx, http.MethodGet, "http://"+r.listen+"/health", nil)
	require.NoError(t, err)
	a, err := http.DefaultClient.Do(q)
	if err != nil {
		return err.Error()
	}
	defer a.Body.Close()
	return a.Status
}

func (s *server) ended() bool {
	select {
	case <-s.done:
		return true
	default:
		return false
	}
}

// logs are what servers said that have ended.
func logs(servers []*server) string {
	var text strings.Builder
	for _, s := range servers {
		fmt.Fprintf(&text, "tandem %s:\n%s\n", strings.Join(s.args, " "), s.log)
	}
	return text.String()
}

// stop stops the servers, as a reader would, and expects that they end in good
// order.
func (r *reader) stop(t *testing.T) {
	t.Helper()
	for _, s := range r.servers {
		_ = s.cmd.Process.Signal(syscall.SIGTERM) // one that has ended is found below
	}
	late := time.After(patience)
	for _, s := range r.servers {
		select {
		case <-s.done:
		case <-late:
			servers := r.servers
			r.kill()
			t.Fatalf("not all servers end on SIGTERM:\n%s", logs(servers))
		}
	}
	for _, s := range r.servers {
		if !s.cmd.ProcessState.Success() {
			t.Errorf("tandem %s: %v:\n%s", strings.Join(s.args, " "), s.cmd.ProcessState, s.log)
		}
	}
	r.servers = nil
}

// kill leaves nothing behind.
func (r *reader) kill() {
	for _, s := range r.servers {
		_ = s.cmd.Process.Kill() // it may have ended
		<-s.done
	}
	r.servers = nil
}

// TestShellBlocksRun pastes each shell block of the documents. One that no test
// can run says so in the document, with the reason, and is reported as skipped.
func TestShellBlocksRun(t *testing.T) {
	for _, tool := range []string{"bash", "curl", "go"} {
		if _, err := exec.LookPath(tool); err != nil {
			t.Skipf("the documents' commands need it: %v", err)
		}
	}
	binary := filepath.Join(t.TempDir(), "tandem")
	build := exec.CommandContext(t.Context(), "go", "build", "-o", binary, "./cmd/tandem")
	build.Dir = root
	out, err := build.CombinedOutput()
	require.NoError(t, err, "%s", out)
	for name, text := range documents(t) {
		t.Run(name, func(t *testing.T) { pasteAll(t, binary, text) })
	}
}

func pasteAll(t *testing.T, binary, text string) {
	t.Helper()
	r := newReader(t, binary)
	for _, b := range blocks(text) {
		if b.language != "sh" {
			continue
		}
		t.Run(fmt.Sprintf("line %d", b.line), func(t *testing.T) {
			if b.untested != "" {
				t.Skipf("marked as untested: %s", b.untested)
			}
			r.paste(t, b.text)
		})
	}
	r.stop(t)
}
