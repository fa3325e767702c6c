package main

import (
	"bytes"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
)

// directive is how a package asks for its assembly, which is as deep in the tree as
// there are steps up to tools.
var directive = regexp.MustCompile(`^//go:generate go run -C (?:\.\./)+tools \./asmgen (.*)`)

// Nobody edits generated files, and nobody forgets to generate them again.
func TestGeneratedFilesAreCurrent(t *testing.T) {
	seen := 0
	for _, source := range append(glob(t, "../../*/*.go"), glob(t, "../../*/*/*.go")...) {
		text, err := os.ReadFile(source)
		if err != nil {
			t.Fatal(err)
		}
		for line := range strings.Lines(string(text)) {
			if found := directive.FindStringSubmatch(line); found != nil {
				seen++
				requireCurrent(t, source, strings.Fields(found[1]))
			}
		}
	}
	if seen != len(families) {
		t.Errorf("%d packages ask for %d families", seen, len(families))
	}
}

func glob(t *testing.T, pattern string) []string {
	paths, err := filepath.Glob(pattern)
	if err != nil {
		t.Fatal(err)
	}
	return paths
}

// requireCurrent generates into a temporary folder and compares, but for the
// first line, which repeats the command.
func requireCurrent(t *testing.T, source string, args []string) {
	dir := t.TempDir()
	written := map[string]string{}
	for i, a := range args {
		if a == "-out" || a == "-stubs" {
			temporary := filepath.Join(dir, filepath.Base(args[i+1]))
			written[temporary] = filepath.Join("..", args[i+1])
			args[i+1] = temporary
		}
	}
	out, err := exec.Command("go", append([]string{"run", "."}, args...)...).CombinedOutput()
	if err != nil {
		t.Fatalf("%s: %v\n%s", source, err, out)
	}
	for temporary, committed := range written {
		if !bytes.Equal(body(t, temporary), body(t, committed)) {
			t.Errorf("%s is not what asmgen writes: run go generate %s", committed, source)
		}
	}
}

// body is a file without its first line.
func body(t *testing.T, path string) []byte {
	text, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	_, rest, _ := bytes.Cut(text, []byte("\n"))
	return rest
}
