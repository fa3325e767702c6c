package lint

import (
	"bytes"
	"encoding/json"
	"go/ast"
	"go/parser"
	"go/token"
	"io"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"testing"

	"github.com/stretchr/testify/require"
)

// module is the path that all of ours begin with.
const module = "github.com/tandem-moe/tandem"

// root is the module's root, seen from this package.
const root = "../.."

// goPackage is what `go list -json` says of a package.
type goPackage struct {
	ImportPath   string
	Name         string
	Dir          string
	GoFiles      []string
	TestGoFiles  []string
	XTestGoFiles []string
	Imports      []string
	Deps         []string
}

// short is the import path inside the module: "serve/gather".
func (p *goPackage) short() string {
	return strings.TrimPrefix(strings.TrimPrefix(p.ImportPath, module), "/")
}

var list = sync.OnceValues(func() ([]*goPackage, error) {
	cmd := exec.Command("go", "list", "-json=ImportPath,Name,Dir,GoFiles,TestGoFiles,XTestGoFiles,Imports,Deps", "./...")
	cmd.Dir = root
	var stderr bytes.Buffer
	cmd.Stderr = &stderr
	out, err := cmd.Output()
	if err != nil {
		return nil, &listError{err, stderr.String()}
	}
	var packages []*goPackage
	for d := json.NewDecoder(bytes.NewReader(out)); ; {
		p := new(goPackage)
		if err := d.Decode(p); err == io.EOF {
			return packages, nil
		} else if err != nil {
			return nil, err
		}
		packages = append(packages, p)
	}
})

type listError struct {
	err    error
	stderr string
}

func (e *listError) Error() string { return "go list: " + e.err.Error() + "\n" + e.stderr }

// packages lists the module's packages.
func packages(t *testing.T) []*goPackage {
	t.Helper()
	all, err := list()
	require.NoError(t, err)
	require.NotEmpty(t, all)
	return all
}

// parse reads some of a package's files.
func (p *goPackage) parse(t *testing.T, files []string, mode parser.Mode) (*token.FileSet, []*ast.File) {
	t.Helper()
	set := token.NewFileSet()
	var trees []*ast.File
	for _, name := range files {
		tree, err := parser.ParseFile(set, filepath.Join(p.Dir, name), nil, mode|parser.ParseComments)
		require.NoError(t, err)
		trees = append(trees, tree)
	}
	return set, trees
}

// relative is a position's file and line, from the root.
func relative(set *token.FileSet, at token.Pos) string {
	position := set.Position(at)
	if abs, err := filepath.Abs(root); err == nil {
		if rel, err := filepath.Rel(abs, position.Filename); err == nil {
			position.Filename = rel
		}
	}
	position.Column = 0
	return position.String()
}

// files calls f with every text file of the tree that is not ignored by git; in
// a tree without git, with every one. Binary files and those above 1 MB, which
// are data, are left out.
func files(t *testing.T, f func(path string, text []byte)) {
	t.Helper()
	for _, path := range treePaths(t) {
		text, err := os.ReadFile(filepath.Join(root, path))
		if os.IsNotExist(err) {
			continue // deleted and not yet committed
		}
		require.NoError(t, err)
		if len(text) <= 1<<20 && !bytes.ContainsRune(text, 0) {
			f(path, text)
		}
	}
}

func treePaths(t *testing.T) []string {
	cmd := exec.Command("git", "ls-files", "-z", "--cached", "--others", "--exclude-standard")
	cmd.Dir = root
	if out, err := cmd.Output(); err == nil && len(out) > 0 {
		return strings.Split(strings.TrimSuffix(string(out), "\x00"), "\x00")
	}
	var paths []string
	err := fs.WalkDir(os.DirFS(root), ".", func(path string, d fs.DirEntry, err error) error {
		if d != nil && d.IsDir() && d.Name() == ".git" {
			return fs.SkipDir
		}
		if err == nil && d.Type().IsRegular() {
			paths = append(paths, path)
		}
		return err
	})
	require.NoError(t, err)
	return paths
}
