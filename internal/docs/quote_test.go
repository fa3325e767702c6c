package docs

import (
	"go/ast"
	"go/parser"
	"go/token"
	"io/fs"
	"os"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
)

// varies stands for what varies in a text.
const varies = "…"

// verb is fmt's.
var verb = regexp.MustCompile(`%[-+# 0-9.*\[\]]*[a-zA-Z]`)

// texts are the strings of the program's source, one a line, with varies for
// what is put into them.
func texts(t *testing.T) string {
	t.Helper()
	var all strings.Builder
	err := filepath.WalkDir(root, func(path string, d fs.DirEntry, err error) error {
		switch {
		case err != nil:
			return err
		case d.IsDir() && (d.Name() == "testdata" || d.Name() == "tools" ||
			strings.HasPrefix(d.Name(), ".") && path != root):
			return fs.SkipDir
		case !strings.HasSuffix(path, ".go") || strings.HasSuffix(path, "_test.go"):
			return nil
		}
		file, err := parser.ParseFile(token.NewFileSet(), path, nil, 0)
		if err != nil {
			return err
		}
		ast.Inspect(file, func(n ast.Node) bool {
			e, ok := n.(ast.Expr)
			if !ok {
				return true
			}
			text, isText := textOf(e)
			if isText {
				all.WriteString(strings.ReplaceAll(text, "\n", " ") + "\n")
			}
			return !isText
		})
		return nil
	})
	require.NoError(t, err)
	return all.String()
}

// textOf is the text of a string or of a sum that has one.
func textOf(e ast.Expr) (string, bool) {
	switch e := e.(type) {
	case *ast.BasicLit:
		text, err := strconv.Unquote(e.Value)
		return verb.ReplaceAllString(text, varies), err == nil && e.Kind == token.STRING
	case *ast.BinaryExpr:
		left, isLeft := textOf(e.X)
		right, isRight := textOf(e.Y)
		if e.Op != token.ADD || !isLeft && !isRight {
			return "", false
		}
		if !isLeft {
			left = varies
		}
		if !isRight {
			right = varies
		}
		return left + right, true
	default:
		return "", false
	}
}

// firstCell is the first cell of a row of a table, where it quotes.
var (
	firstCell = regexp.MustCompile("(?m)^\\| (`.*?`) \\|")
	quoted    = regexp.MustCompile("`([^`]+)`")
)

// TestQuotedTexts: what the page of troubles says that the program says, it says.
func TestQuotedTexts(t *testing.T) {
	page, err := os.ReadFile(filepath.Join(root, "docs", "troubleshooting.md"))
	require.NoError(t, err)
	program, found := texts(t), 0
	for _, cell := range firstCell.FindAllStringSubmatch(string(page), -1) {
		for _, q := range quoted.FindAllStringSubmatch(cell[1], -1) {
			found++
			if !says(program, q[1]) {
				t.Errorf("docs/troubleshooting.md quotes %q, and no string of the program is so: quote what it says now", q[1])
			}
		}
	}
	require.Greater(t, found, 40)
}

// says reports whether a text of the program has all of a quotation, in order.
func says(program, quotation string) bool {
	var pattern []string
	for _, part := range strings.Split(quotation, varies) {
		pattern = append(pattern, regexp.QuoteMeta(strings.TrimSpace(part)))
	}
	return regexp.MustCompile("(?m)" + strings.Join(pattern, ".*")).MatchString(program)
}

func TestSays(t *testing.T) {
	program := "reading …: …\n…: the cluster has …, the node …\n"
	for quotation, want := range map[string]bool{
		"reading …: …": true, "…: the cluster has …, the node …": true, "the node … the cluster has …": false,
		"reading … the node": false, "writing …": false,
	} {
		require.Equal(t, want, says(program, quotation), quotation)
	}
}
