package docs

import (
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
)

// root is the module's, seen from this package.
const root = "../.."

// block is a fenced block of a document.
type block struct {
	line     int // of its opening fence
	language string
	text     string
	// untested is the reason for which no test runs it; empty: one does.
	untested string
}

var (
	fence    = regexp.MustCompile("^\\s*```+\\s*(\\S*)")
	untested = regexp.MustCompile(`^\s*<!-- untested: (.+) -->$`)
)

// blocks are the fenced blocks of a document.
func blocks(text string) []block {
	var (
		all    []block
		open   *block
		reason string
	)
	for i, line := range strings.Split(text, "\n") {
		m := fence.FindStringSubmatch(line)
		switch {
		case m != nil && open == nil:
			open = &block{line: i + 1, language: m[1], untested: reason}
		case m != nil:
			all = append(all, *open)
			open, reason = nil, ""
		case open != nil:
			open.text += line + "\n"
		default:
			reason = ""
			if m := untested.FindStringSubmatch(line); m != nil {
				reason = m[1]
			}
		}
	}
	return all
}

// documents are those whose blocks are held: name and text.
func documents(t *testing.T) map[string]string {
	t.Helper()
	pages, err := filepath.Glob(filepath.Join(root, "docs", "*.md"))
	require.NoError(t, err)
	all := map[string]string{}
	for _, file := range append(pages, filepath.Join(root, "README.md")) {
		text, err := os.ReadFile(file)
		require.NoError(t, err)
		name, err := filepath.Rel(root, file)
		require.NoError(t, err)
		all[filepath.ToSlash(name)] = string(text)
	}
	return all
}

// TestBlocksAreLabelled: each block says what it is, so that no command of a
// document escapes the test below.
func TestBlocksAreLabelled(t *testing.T) {
	for name, text := range documents(t) {
		for _, b := range blocks(text) {
			if b.language == "" {
				t.Errorf("%s:%d: the block has no language: write ```sh for commands, ```text for what is none", name, b.line)
			}
			if b.untested != "" && b.language != "sh" {
				t.Errorf("%s:%d: no test runs a block of %s anyway", name, b.line, b.language)
			}
		}
	}
}

func TestBlocksAreFound(t *testing.T) {
	got := blocks("a\n```sh\nx\ny\n```\n<!-- untested: needs a fabric -->\n```sh\nz\n```\n<!-- untested: not this one -->\n\n```\nw\n```\n")
	require.Equal(t, []block{
		{line: 2, language: "sh", text: "x\ny\n"},
		{line: 7, language: "sh", text: "z\n", untested: "needs a fabric"},
		{line: 12, text: "w\n"},
	}, got)
}
