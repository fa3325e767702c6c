package lint

import (
	"bytes"
	"go/ast"
	"go/parser"
	"go/token"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
)

// How long functions and files are. Functions are those outside of tests, in lines
// from "func" to the closing brace.
const (
	medianFunction = 10
	p90Function    = 22
	maxFile        = 600
)

// oneIdea are files that are longer, each with the one idea that it has.
var oneIdea = map[string]string{
	"m2n/shmfaults_test.go":       "what a stranger at the other end of shared memory may do wrong",
	"model/chat/jinja/filters.go": "Jinja's filters",
	"model/chat/jinja/methods.go": "the methods of Python's values that templates call",
}

// TestMeasure prints how long the code is, and holds it to the bounds.
func TestMeasure(t *testing.T) {
	var functions []int
	count, lines := 0, 0
	files(t, func(path string, text []byte) {
		if filepath.Ext(path) != ".go" || isData(path) || generatedFile.Match(text) {
			return
		}
		n := bytes.Count(text, []byte("\n"))
		count, lines = count+1, lines+n
		if n > maxFile && oneIdea[path] == "" {
			t.Errorf("%s has %d lines, want %d at most: split it by ideas, or say in oneIdea what its one idea is",
				path, n, maxFile)
		}
		if idea, ok := oneIdea[path]; ok && n <= maxFile {
			t.Errorf("%s has %d lines: take it off oneIdea (%q)", path, n, idea)
		}
		if !strings.HasSuffix(path, "_test.go") {
			functions = append(functions, functionLengths(t, text)...)
		}
	})
	median, p90 := quantile(functions, 50), quantile(functions, 90)
	t.Logf("%d files of %d lines; %d functions outside of tests: median %d lines, p90 %d, longest %d",
		count, lines, len(functions), median, p90, quantile(functions, 100))
	if median > medianFunction || p90 > p90Function {
		t.Errorf("functions have a median of %d lines and a p90 of %d, want %d and %d at most: give the longest more names",
			median, p90, medianFunction, p90Function)
	}
}

func functionLengths(t *testing.T, source []byte) (lengths []int) {
	set := token.NewFileSet()
	tree, err := parser.ParseFile(set, "", source, 0)
	require.NoError(t, err)
	for _, d := range tree.Decls {
		if f, ok := d.(*ast.FuncDecl); ok && f.Body != nil {
			lengths = append(lengths, set.Position(f.End()).Line-set.Position(f.Pos()).Line+1)
		}
	}
	return lengths
}

// quantile is the smallest value that so many in a hundred do not exceed.
func quantile(values []int, percent int) int {
	if len(values) == 0 {
		return 0
	}
	slices.Sort(values)
	return values[max((percent*len(values)+99)/100-1, 0)]
}

func TestQuantile(t *testing.T) {
	for percent, want := range map[int]int{0: 1, 1: 1, 25: 1, 26: 2, 50: 2, 51: 3, 75: 3, 90: 4, 100: 4} {
		require.Equal(t, want, quantile([]int{3, 1, 4, 2}, percent), percent)
	}
	require.Zero(t, quantile(nil, 50))
	source := "package p\nfunc a() {}\nvar b = func() {\n\n\n}\n\nfunc c() {\n\n}\n"
	require.Equal(t, []int{1, 3}, functionLengths(t, []byte(source)))
}
