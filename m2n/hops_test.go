package m2n

import (
	"go/ast"
	"go/parser"
	"go/token"
	"path/filepath"
	"regexp"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
)

// hop is a line of post.go's list: a function or method, and the file that declares it.
var hop = regexp.MustCompile(`(?m)^\t(?:sender|receiver)?\s+([\w.]+)\s+(\w+\.go)\b`)

// TestHopsExist: each hop that post.go lists is declared in the file that it names.
func TestHopsExist(t *testing.T) {
	tree, err := parser.ParseFile(token.NewFileSet(), "post.go", nil, parser.ParseComments)
	require.NoError(t, err)
	hops := hop.FindAllStringSubmatch(tree.Comments[0].Text(), -1)
	require.Greater(t, len(hops), 40, "the list is read")
	for _, h := range hops {
		name, file := h[1], h[2]
		for _, pkg := range []string{"wire", "shm", "poll"} {
			if rest, ok := strings.CutPrefix(name, pkg+"."); ok {
				name, file = rest, filepath.Join("internal", pkg, file)
			}
		}
		require.Contains(t, declared(t, file), name, "%s of %s, which post.go lists, is not there", name, file)
	}
}

// declared are the functions and methods that a file declares, as "Type.method".
func declared(t *testing.T, file string) (names []string) {
	t.Helper()
	tree, err := parser.ParseFile(token.NewFileSet(), file, nil, parser.SkipObjectResolution)
	require.NoError(t, err)
	for _, d := range tree.Decls {
		f, ok := d.(*ast.FuncDecl)
		if !ok {
			continue
		}
		name := f.Name.Name
		if f.Recv != nil {
			recv := f.Recv.List[0].Type
			if star, ok := recv.(*ast.StarExpr); ok {
				recv = star.X
			}
			id, ok := recv.(*ast.Ident)
			if !ok {
				continue // of a generic type: none is a hop
			}
			name = id.Name + "." + name
		}
		names = append(names, name)
	}
	return names
}
