package lint

import (
	"encoding/json"
	"flag"
	"fmt"
	"os"
	"os/exec"
	"slices"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
)

// forTests are packages that only tests import, beside those whose name ends in
// "test", each with what tests need it for.
var forTests = map[string]string{
	"internal/docs":   "holds the documents to the code",
	"internal/golden": "compares with files of testdata",
	"internal/lint":   "holds the house's rules",
	"internal/oracle": "finds and reads other implementations' outputs",
	"m2n/shape":       "is a network in memory with rates, latencies and faults",
}

// linked are our packages in the binaries.
func linked(t *testing.T) map[string]bool {
	in := map[string]bool{}
	for _, p := range packages(t) {
		if p.Name != "main" {
			continue
		}
		for _, path := range append(p.Deps, p.ImportPath) {
			if short, ok := strings.CutPrefix(path, module+"/"); ok {
				in[short] = true
			}
		}
	}
	return in
}

// TestPackagesForTests: what no binary links is for tests, and is named as such.
func TestPackagesForTests(t *testing.T) {
	in := linked(t)
	known := map[string]bool{}
	for _, p := range packages(t) {
		known[p.short()] = true
		named := forTests[p.short()] != "" || p.testHelpers()
		switch {
		case !named && !in[p.short()]:
			t.Errorf("%s is in no binary: give it a caller, delete it, or name it in forTests", p.short())
		case named && in[p.short()]:
			t.Errorf("%s is for tests, and a binary links it: move out of it what is not", p.short())
		}
	}
	for name := range forTests {
		require.True(t, known[name], "forTests names %s, which is not there", name)
	}
}

// exception is a function, or a package, that no binary reaches and that stays.
type exception struct {
	name string
	// tags are build tags with which it is reached, and no exception.
	tags   string
	reason string
	// only is a build tag without which it is not there.
	only string
}

var alive = []exception{
	{name: "m2n/ucx", tags: "ucx", reason: "the fabric is behind the tag: without it, its addresses are only parsed, by a fuzz test"},
	{name: "m2n/ucx.Fabric.strays", only: "ucx", reason: "a test reads what C counts, and tests cannot use cgo"},

	// These are being changed, and go from this list once they are.
	{name: "kernel.weight.element", reason: "being changed"},
	{name: "model/checkpoint.WriteDir", reason: "being changed: bench writes models by Write"},
	{name: "model/checkpoint.encodeIndex", reason: "WriteDir's"},
	{name: "model/checkpoint.writeIndex", reason: "WriteDir's"},
	{name: "model/checkpoint.split", reason: "WriteDir's"},
	{name: "model/checkpoint.writeFile", reason: "WriteDir's"},
}

var (
	deadcode = flag.Bool("deadcode", false,
		"also look for code that no binary reaches (downloads the tools of tools/lint)")
	deadcodeTags = flag.String("deadcode.tags", "", "the build tags with which to look for it")
)

// TestDeadCode: what only tests call is dead. `.ci/run lint` runs it.
func TestDeadCode(t *testing.T) {
	if !*deadcode {
		t.Skip("run it by -deadcode")
	}
	in, excused := linked(t), map[string]bool{}
	for _, f := range unreachable(t) {
		i := slices.IndexFunc(alive, func(e exception) bool { return e.applies() && e.covers(f) })
		switch {
		case i >= 0:
			excused[alive[i].name] = true
		case in[f.pkg]:
			t.Errorf("%s: no binary reaches %s: delete it, give it its caller, or move it to the tests that call it",
				f.at, f.name)
		}
	}
	for _, e := range alive {
		if e.applies() && !excused[e.name] {
			t.Errorf("%s is excused (%s), and has no dead code: take it off alive", e.name, e.reason)
		}
	}
}

func (e exception) applies() bool {
	return (e.tags == "" || e.tags != *deadcodeTags) && (e.only == "" || e.only == *deadcodeTags)
}

func (e exception) covers(f deadFunction) bool { return e.name == f.name || e.name == f.pkg }

// deadFunction is one that no binary reaches: kernel.weight.element.
type deadFunction struct{ pkg, name, at string }

// unreachable asks golang.org/x/tools/cmd/deadcode.
func unreachable(t *testing.T) (found []deadFunction) {
	cmd := exec.CommandContext(t.Context(), "go", "tool", "-modfile=tools/lint/go.mod", "deadcode", "-json",
		"-tags", *deadcodeTags, "-filter", "^"+module, "./...")
	cmd.Dir, cmd.Stderr = root, os.Stderr
	out, err := cmd.Output()
	require.NoError(t, err)
	var list []struct {
		Path  string
		Funcs []struct {
			Name     string
			Position struct {
				File string
				Line int
			}
		}
	}
	require.NoError(t, json.Unmarshal(out, &list))
	for _, p := range list {
		short := strings.TrimPrefix(p.Path, module+"/")
		for _, f := range p.Funcs {
			at := fmt.Sprintf("%s:%d", f.Position.File, f.Position.Line)
			found = append(found, deadFunction{short, short + "." + f.Name, at})
		}
	}
	return found
}
