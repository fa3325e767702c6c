package main

import (
	"bytes"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
)

// directive is how a package asks for its assembly.
const directive = "//go:generate go run -C ../tools ./asmgen "

// Nobody edits generated files, and nobody forgets to generate them again.
func TestGeneratedFilesAreCurrent(t *testing.T) {
	sources, err := filepath.Glob("../../*/*.go")
	if err != nil {
		t.Fatal(err)
	}
	seen := 0
	for _, source := range sources {
		text, err := os.ReadFile(source)
		if err != nil {
			t.Fatal(err)
		}
		for line := range strings.Lines(string(text)) {
			if args, ok := strings.CutPrefix(strings.TrimSpace(line), directive); ok {
				seen++
				requireCurrent(t, source, strings.Fields(args))
			}
		}
	}
	if seen != len(families) {
		t.Errorf("%d packages ask for %d families", seen, len(families))
	}
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
