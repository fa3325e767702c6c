package lint

import (
	"bytes"
	"encoding/json"
	"fmt"
	"go/ast"
	"go/importer"
	"go/parser"
	"go/token"
	"go/types"
	"io"
	"os"
	"os/exec"
	"slices"
	"testing"

	"github.com/stretchr/testify/require"
)

// exact are the packages whose arithmetic reaches a result: the same bits on
// every machine.
var exact = []string{"kernel", "kernel/detmath", "layer", "route", "serve/sample"}

// exactMath is what they may call of package math: what IEEE 754 defines to the
// bit, and what only looks at bits. Constants are free.
var exactMath = []string{
	"Sqrt", "FMA", "Abs", "Floor", "Float32bits", "Float32frombits", "Float64bits",
	"Float64frombits", "Signbit", "Copysign", "Inf", "NaN", "IsInf", "IsNaN",
}

// TestResultsAreTheSameEverywhere holds docs/design.md's rule about package math and
// about products.
func TestResultsAreTheSameEverywhere(t *testing.T) {
	compiled := compile(t)
	for _, name := range exact {
		p := compiled[module+"/"+name]
		require.NotNil(t, p, name)
		set, trees := p.parse(t, p.GoFiles, 0)
		for _, f := range inexact(t, set, trees, compiled) {
			t.Errorf("%s: %s", relative(set, f.at), f.message)
		}
	}
}

// exports are packages by import path, with what the compiler says of them.
type exports map[string]*exportedPackage

type exportedPackage struct {
	goPackage
	Export string // a file
}

// compile builds the exact packages and lists them and all that they import.
func compile(t *testing.T) exports {
	t.Helper()
	args := []string{"list", "-export", "-deps", "-json=ImportPath,Dir,GoFiles,Export"}
	for _, name := range exact {
		args = append(args, module+"/"+name)
	}
	cmd := exec.Command("go", args...)
	cmd.Dir = root
	out, err := cmd.Output()
	require.NoError(t, err, "go list -export: the packages must build")
	all := exports{}
	for d := json.NewDecoder(bytes.NewReader(out)); ; {
		p := new(exportedPackage)
		if err := d.Decode(p); err == io.EOF {
			return all
		} else if err != nil {
			t.Fatal(err)
		}
		all[p.ImportPath] = p
	}
}

// open reads what the compiler says of a package.
func (e exports) open(path string) (io.ReadCloser, error) {
	p := e[path]
	if p == nil {
		return nil, fmt.Errorf("package %s is not among those listed", path)
	}
	return os.Open(p.Export)
}

// finding is a place that may compute differently elsewhere.
type finding struct {
	at      token.Pos
	message string
}

// inexact checks a package's files.
func inexact(t *testing.T, set *token.FileSet, trees []*ast.File, imports exports) (found []finding) {
	t.Helper()
	info := &types.Info{Types: map[ast.Expr]types.TypeAndValue{}, Uses: map[*ast.Ident]types.Object{}}
	config := types.Config{Importer: importer.ForCompiler(set, "gc", imports.open)}
	_, err := config.Check("checked", set, trees, info)
	require.NoError(t, err)
	for _, tree := range trees {
		var parents []ast.Node
		ast.Inspect(tree, func(n ast.Node) bool {
			if n == nil {
				parents = parents[:len(parents)-1]
				return true
			}
			if message := check(info, n, parents); message != "" {
				found = append(found, finding{n.Pos(), message})
			}
			parents = append(parents, n)
			return true
		})
	}
	return found
}

// check says what is wrong with a node, or nothing.
func check(info *types.Info, n ast.Node, parents []ast.Node) string {
	switch n := n.(type) {
	case *ast.SelectorExpr:
		return checkMath(info, n)
	case *ast.BinaryExpr:
		if n.Op == token.MUL && isFloat(info, n) && !isRounded(info, parents) {
			return fmt.Sprintf("the product may be fused with an addition, here or where its value goes (the compiler does so on some targets, across statements too): write %[1]s(x*y), or the exact fused math.FMA or detmath.FMA32", typeName(info, n))
		}
	case *ast.AssignStmt:
		if n.Tok == token.MUL_ASSIGN && isFloat(info, n.Lhs[0]) {
			return fmt.Sprintf("the product may be fused with an addition that follows: write x = %s(x*y)", typeName(info, n.Lhs[0]))
		}
	}
	return ""
}

// checkMath refuses functions of package math that differ between targets.
func checkMath(info *types.Info, s *ast.SelectorExpr) string {
	f, ok := info.Uses[s.Sel].(*types.Func)
	if !ok || f.Pkg() == nil || f.Pkg().Path() != "math" || slices.Contains(exactMath, f.Name()) {
		return ""
	}
	return fmt.Sprintf("math.%s: package math's functions are assembly on some targets and Go on others, with different results; use kernel/detmath, or one of %v", f.Name(), exactMath)
}

// isRounded reports whether a product goes where nothing can be added to it
// unrounded: into a conversion, another product, a quotient or a comparison.
func isRounded(info *types.Info, parents []ast.Node) bool {
	for _, p := range slices.Backward(parents) {
		switch p := p.(type) {
		case *ast.ParenExpr:
			continue
		case *ast.CallExpr:
			return info.Types[p.Fun].IsType()
		case *ast.BinaryExpr:
			return p.Op != token.ADD && p.Op != token.SUB
		}
		return false
	}
	return false
}

// isFloat reports whether an expression is a float that is not constant.
func isFloat(info *types.Info, e ast.Expr) bool {
	tv := info.Types[e]
	if tv.Type == nil || tv.Value != nil {
		return false
	}
	if p, ok := tv.Type.(*types.TypeParam); ok {
		return allowsFloat(p)
	}
	b, ok := tv.Type.Underlying().(*types.Basic)
	return ok && b.Info()&types.IsFloat != 0
}

// allowsFloat reports whether a type parameter may be a float.
func allowsFloat(p *types.TypeParam) bool {
	for _, f := range []types.BasicKind{types.Float32, types.Float64} {
		if types.Satisfies(types.Typ[f], p.Constraint().Underlying().(*types.Interface)) {
			return true
		}
	}
	return false
}

func typeName(info *types.Info, e ast.Expr) string {
	return types.TypeString(info.Types[e].Type, func(p *types.Package) string { return p.Name() })
}

// TestInexactIsFound: the lines that end in "// bad" are found, and no others.
func TestInexactIsFound(t *testing.T) {
	const source = `package p

import "math"

func f(x, y, z float32, u, v float64, i, j int) (float32, float64, int) {
	a := x*y + z            // bad
	a = float32(x*y) + z
	a = z - (x * y)         // bad
	a += x * y              // bad
	a += float32(x * y)
	a *= y                  // bad
	a = float32(float32(x)*y) - float32(x*y*z)
	b := u * v              // bad
	b = u*v/2 + u/v*2       // bad
	b = u*v/2 + u/v
	b = math.FMA(u, v, 1) + math.Sqrt(math.Abs(u)) + math.Pi*2
	b = math.Exp(u)         // bad
	g := math.Cos           // bad
	if u*v < 1 {
		i *= j
	}
	b = -(u * v)            // bad
	return a, g(b), i*j + i
}

func h[T float32 | int](x, y, z T) T { return x*y + z } // bad

func k(x, y float64) float64 { return x * y } // bad

func l[T int | uint8](x, y, z T) T { return x*y + z }
`
	set := token.NewFileSet()
	tree, err := parser.ParseFile(set, "p.go", source, 0)
	require.NoError(t, err)
	got := map[int]bool{}
	for _, f := range inexact(t, set, []*ast.File{tree}, compile(t)) {
		got[set.Position(f.at).Line] = true
	}
	for i, line := range bytes.Split([]byte(source), []byte("\n")) {
		require.Equal(t, bytes.HasSuffix(line, []byte("// bad")), got[i+1], "line %d: %s", i+1, line)
	}
}
