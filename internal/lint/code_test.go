package lint

import (
	"go/ast"
	"go/parser"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
)

// sentence is an end of one.
var sentence = regexp.MustCompile(`[.!?]["')\]]*(\s|$)`)

// TestPackageComments: each package says in two sentences or more what it owns
// and what it may not know.
func TestPackageComments(t *testing.T) {
	for _, p := range packages(t) {
		if len(p.GoFiles) == 0 || p.generated(t) {
			continue
		}
		text := p.comment(t)
		begin := "Package " + p.Name + " "
		if p.Name == "main" {
			begin = "Command " + filepath.Base(p.ImportPath) + " "
		}
		switch {
		case !strings.HasPrefix(text, begin):
			t.Errorf("%s: the package comment must begin with %q, got %q", p.short(), begin, firstLine(text))
		case len(sentence.FindAllString(text, -1)) < 2:
			t.Errorf("%s: the package comment must say in two sentences what the package owns and what it may not know, got %q", p.short(), text)
		}
	}
}

func firstLine(text string) string {
	line, _, _ := strings.Cut(text, "\n")
	return line
}

// comment joins the package comments of a package's files.
func (p *goPackage) comment(t *testing.T) string {
	_, trees := p.parse(t, p.GoFiles, parser.PackageClauseOnly)
	var text []string
	for _, tree := range trees {
		if tree.Doc != nil {
			text = append(text, strings.TrimSpace(tree.Doc.Text()))
		}
	}
	return strings.Join(text, "\n\n")
}

// generated reports whether all of a package is.
func (p *goPackage) generated(t *testing.T) bool {
	_, trees := p.parse(t, p.GoFiles, parser.PackageClauseOnly)
	return !slices.ContainsFunc(trees, func(f *ast.File) bool { return !ast.IsGenerated(f) })
}

// testHelpers reports whether a package is for tests alone.
func (p *goPackage) testHelpers() bool { return strings.HasSuffix(p.Name, "test") }

// TestNoSleep: a sleep is a wait for something that is not named.
func TestNoSleep(t *testing.T) {
	for _, p := range packages(t) {
		if p.testHelpers() {
			continue
		}
		set, trees := p.parse(t, p.GoFiles, 0)
		for _, tree := range trees {
			ast.Inspect(tree, func(n ast.Node) bool {
				if s, ok := n.(*ast.SelectorExpr); ok && isName(s.X, "time") && s.Sel.Name == "Sleep" {
					t.Errorf("%s: time.Sleep: wait for the event, or select on a timer and a context, so that the wait can be ended", relative(set, s.Pos()))
				}
				return true
			})
		}
	}
}

func isName(e ast.Expr, name string) bool {
	id, ok := e.(*ast.Ident)
	return ok && id.Name == name
}

// TestGoroutinesAreChecked: a package that starts goroutines ends them, and its
// tests look.
func TestGoroutinesAreChecked(t *testing.T) {
	for _, p := range packages(t) {
		if p.testHelpers() || p.Name == "main" {
			continue
		}
		set, trees := p.parse(t, p.GoFiles, 0)
		start := ""
		for _, tree := range trees {
			ast.Inspect(tree, func(n ast.Node) bool {
				if s, ok := n.(*ast.GoStmt); ok {
					start = relative(set, s.Pos())
				}
				return start == ""
			})
		}
		if start != "" && !p.testsMention(t, "goleak.") {
			t.Errorf("%s: %s starts goroutines, and its tests do not look for leaks: call goleak.VerifyTestMain in a TestMain", start, p.short())
		}
	}
}

func (p *goPackage) testsMention(t *testing.T, word string) bool {
	return slices.ContainsFunc(slices.Concat(p.TestGoFiles, p.XTestGoFiles), func(name string) bool {
		text, err := os.ReadFile(filepath.Join(p.Dir, name))
		require.NoError(t, err)
		return strings.Contains(string(text), word)
	})
}
