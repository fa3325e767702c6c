// Package golden is for tests: it compares what they print with files in
// testdata, and owns the one flag, -update, that writes these files anew. It
// knows nothing about what is printed.
package golden

import (
	"flag"
	"os"
	"path/filepath"
	"testing"

	"github.com/google/go-cmp/cmp"
)

var update = flag.Bool("update", false,
	"write testdata and the generated sections of docs anew; commit only those changes that you understand")

// Update reports whether this run writes files anew instead of comparing them.
func Update() bool { return *update }

// File compares a text with a file in testdata, which name is relative to.
func File(t testing.TB, name, got string) {
	t.Helper()
	path := filepath.Join("testdata", name)
	if *update {
		write(t, path, got)
		return
	}
	want, err := os.ReadFile(path)
	if err != nil {
		t.Fatalf("%v (-update writes it)", err)
	}
	if diff := cmp.Diff(string(want), got); diff != "" {
		t.Errorf("%s (- the file, + this run; -update writes it anew):\n%s", path, diff)
	}
}

func write(t testing.TB, path, text string) {
	t.Helper()
	if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(path, []byte(text), 0o644); err != nil { //nolint:gosec // it is committed, and everybody's
		t.Fatal(err)
	}
}
