package main

import (
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/jedib0t/go-pretty/v6/table"
	pretty "github.com/jedib0t/go-pretty/v6/text"
	"github.com/stretchr/testify/require"
)

// requireJSON checks that every line is an object with a time, a level and words.
func requireJSON(t *testing.T, text string) {
	t.Helper()
	require.NotEmpty(t, text)
	for line := range strings.Lines(text) {
		var object struct{ Time, Level, Msg string }
		require.NoError(t, json.Unmarshal([]byte(line), &object), "%q", line)
		require.NotEmpty(t, object.Time, line)
		require.NotEmpty(t, object.Level, line)
		require.NotEmpty(t, object.Msg, line)
	}
}

// TestFailShowsNoControls: an error may repeat what a server said, and a terminal
// gets nothing of it that would control it.
func TestFailShowsNoControls(t *testing.T) {
	file, err := os.Create(filepath.Join(t.TempDir(), "err"))
	require.NoError(t, err)
	defer file.Close()
	newScreen(file, slog.LevelInfo, false).fail(errors.New("the server says: \x1b]0;mine\a\u009b2Jno"), "")
	text, err := os.ReadFile(file.Name())
	require.NoError(t, err)
	require.Equal(t, "tandem: the server says: ]0;mine2Jno\n", string(text))
}

// TestLogJSON: with --log-json nothing but JSON is on standard error: tables, the
// KV cache's line and errors, too.
func TestLogJSON(t *testing.T) {
	p := start(t, "serve", "--log-json", "--listen", "127.0.0.1:0", small)
	url := p.says(`"msg":"serving","url":"([^"]+)"`)
	client{t: t, url: url}.healthy()
	p.stopped()
	requireJSON(t, p.text())
	require.Contains(t, p.text(), `"msg":"KV cache","tokens":21840`)
	require.Contains(t, p.text(), `"msg":"node","node":"expert-0","part":"expert"`)

	control := freeAddr(t)
	front := start(t, "--log-json", "serve", "--listen", "127.0.0.1:0", "--control", control)
	front.says(`"url":"([^"]+)"`)
	nodes := []*process{startNode(t, "expert", control, "--log-json"), startNode(t, "attention", control, "--log-json")}
	front.says(`"msg":"serving"`)
	front.says(`"msg":"node","node":"attention-[^"]+","part":"attention"`)
	front.stopped()
	requireJSON(t, front.text())
	for _, n := range nodes {
		n.stopped()
		requireJSON(t, n.text())
	}
}

// TestErrorsAsJSON: those of the command line and of what fails, whatever the level.
func TestErrorsAsJSON(t *testing.T) {
	for args, code := range map[string]int{
		"serve --log-json --nonsense": usage, "--log-json": usage, "serve --log-json=true --grace=-1s": usage,
		"serve --log-json --log-level error --listen nonsense": failed, "serve --log-json --model nowhere": failed,
		"generate --log-json x --temperature=-1": failed,
	} {
		got := tandem(t, "", strings.Fields(args)...)
		require.Equal(t, code, got.code, "%s: %s", args, got.err)
		requireJSON(t, got.err)
		require.Contains(t, got.err, `"level":"ERROR"`, args)
	}
	got := tandemWith(t, []string{"TANDEM_LOG_JSON=1"}, "", "serve", "--listen", "nonsense")
	requireJSON(t, got.err)
}

// TestTablesFit: whatever a terminal's width, down to a column's least, and nothing
// of a cell is lost.
func TestTablesFit(t *testing.T) {
	header := table.Row{"node", "part", "address", "state"}
	long := "shm+tcp:node-17.a-long-name.of-a-rack.example.org:41735"
	rows := []table.Row{{"attention-0", "attention", long, "ready"},
		{"expert-héllo-世界", "expert", "tcp:10.0.0.1:7", "draining"}}
	for _, columns := range []int{0, 200, 100, 80, 60, 50} {
		var out strings.Builder
		printTable(&out, columns, header, rows)
		widest := 0
		for line := range strings.Lines(out.String()) {
			widest = max(widest, pretty.StringWidth(strings.TrimSuffix(line, "\n")))
		}
		if columns == 0 || columns == 200 {
			require.Contains(t, out.String(), long)
			continue
		}
		require.LessOrEqual(t, widest, columns, "\n%s", &out)
		joined := strings.Map(func(r rune) rune {
			if strings.ContainsRune("│ \n", r) {
				return -1
			}
			return r
		}, out.String())
		require.Contains(t, joined, "draining", "%s", &out)
	}
	file, err := os.Create(filepath.Join(t.TempDir(), "x"))
	require.NoError(t, err)
	defer file.Close()
	newScreen(file, 0, true).log.Info("waits", "pause", 100*time.Millisecond)
	logged, err := os.ReadFile(file.Name())
	require.NoError(t, err)
	require.Contains(t, string(logged), `"pause":"100ms"`, "durations have units")
	require.Zero(t, width(file), "a file has no width")
	require.Nil(t, newScreen(file, 0, false).progress("x").w, "and no progress")
}

// TestFitLosesNothing: cells of a squeezed column hold all their characters.
func TestFitLosesNothing(t *testing.T) {
	for length := 1; length < 60; length++ {
		cell := strings.Repeat("x", length)
		var out strings.Builder
		printTable(&out, 40, table.Row{"a", "b"}, []table.Row{{cell, "yyyyyyyyyyyyyyyy"}})
		require.Equal(t, length, strings.Count(out.String(), "x"), fmt.Sprint(length))
	}
}
