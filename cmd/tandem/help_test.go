package main

import (
	"io/fs"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"

	"github.com/alecthomas/kong"
	"github.com/stretchr/testify/require"
)

// parser is the command line's; what ends the program there ends a test.
func parser(t *testing.T) *kong.Kong {
	t.Helper()
	p, err := newParser(&cli{})
	require.NoError(t, err)
	p.Exit = func(code int) { t.Fatalf("the parser ends the program with %d", code) }
	return p
}

// TestVersion prints one line.
func TestVersion(t *testing.T) {
	require.Equal(t, "tandem "+version+"\n", succeeds(t, "", "--version"))
	require.Equal(t, "tandem "+version+"\n", succeeds(t, "", "version"))
}

// TestHelpCommand says what --help says.
func TestHelpCommand(t *testing.T) {
	for _, command := range []string{"", "serve", "bench serve", "certs", "help"} {
		words := strings.Fields(command)
		require.Equal(t, succeeds(t, "", append(words, "--help")...),
			succeeds(t, "", append([]string{"help"}, words...)...), command)
	}
}

// TestHelp is there for each command and each flag, and fits a terminal.
func TestHelp(t *testing.T) {
	overview := succeeds(t, "", "--help")
	require.Equal(t, overview, succeeds(t, ""), "without arguments")
	var visit func(n *kong.Node)
	visit = func(n *kong.Node) {
		path := commandPath(n)
		text := succeeds(t, "", append(strings.Fields(path)[1:], "--help")...)
		for line := range strings.Lines(text) {
			require.LessOrEqual(t, len([]rune(line)), 81, "%s: %q", path, line)
		}
		require.NotEmpty(t, n.Help, path)
		for _, f := range n.Flags {
			require.Contains(t, text, "--"+f.Name, path)
			require.Regexp(t, `[.)]$`, f.Help, "%s --%s: help is a sentence", path, f.Name)
		}
		for _, c := range n.Children {
			visit(c)
		}
	}
	visit(parser(t).Model.Node)
}

// commandPath is a command without its arguments.
func commandPath(n *kong.Node) string {
	var names []string
	for ; n != nil; n = n.Parent {
		names = append([]string{n.Name}, names...)
	}
	return strings.Join(names, " ")
}

// example is a line of a document that runs the program.
var example = regexp.MustCompile(`(?m)^ *(?:go run \./cmd/)?tandem +([^#\n]*)`)

// TestExamplesParse: the commands in our documents and in the help are ones that
// there are.
func TestExamplesParse(t *testing.T) {
	texts := map[string]string{"serve --help": (*ServeCmd)(nil).Help(), "node --help": (*NodeCmd)(nil).Help(),
		"certs --help": (*CertsCmd)(nil).Help()}
	root := os.DirFS(filepath.Join("..", ".."))
	for _, pattern := range []string{"*.md", "docs/*.md"} {
		names, err := fs.Glob(root, pattern)
		require.NoError(t, err)
		for _, name := range names {
			text, err := fs.ReadFile(root, name)
			require.NoError(t, err)
			texts[name] = fenced(string(text))
		}
	}
	found := 0
	for name, text := range texts {
		for _, m := range example.FindAllStringSubmatch(text, -1) {
			if strings.ContainsAny(m[1], `"'|<>$&\`) {
				continue // more than words
			}
			found++
			_, err := parser(t).Parse(strings.Fields(m[1]))
			require.NoError(t, err, "%s: tandem %s", name, m[1])
		}
	}
	require.Greater(t, found, 8)
}

// fenced is what stands between a document's code fences.
func fenced(text string) string {
	var code strings.Builder
	for i, part := range strings.Split(text, "```") {
		if i%2 == 1 {
			code.WriteString(part)
		}
	}
	return code.String()
}
