package main

import (
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/stretchr/testify/require"

	"github.com/tandem-moe/tandem/internal/golden"
)

// TestLinkedPackages: testdata/linked.txt lists the packages of others that the
// binary links on linux/amd64, so that a new one is seen in review. Who runs the
// binary has to trust them all.
func TestLinkedPackages(t *testing.T) {
	file := filepath.Join("testdata", "linked.txt")
	got := linkedPackages(t)
	if golden.Update() {
		require.NoError(t, os.WriteFile(file, []byte(got), 0o644))
	}
	want, err := os.ReadFile(file)
	require.NoError(t, err)
	if diff := cmp.Diff(strings.Fields(string(want)), strings.Fields(got)); diff != "" {
		t.Errorf("The binary links other packages than %s lists (-), as here (+). If it has to, say why in the commit, and run "+
			`"go test ./cmd/tandem -run LinkedPackages -update". What only bench m2n compares with belongs into the module `+
			"bench/peers, and what only makes files into tools.\n%s", file, diff)
	}
}

// linkedPackages are those of other modules, one a line.
func linkedPackages(t *testing.T) string {
	t.Helper()
	const others = `{{if and (not .Standard) (not .Module.Main)}}{{.ImportPath}}{{end}}`
	cmd := exec.CommandContext(t.Context(), "go", "list", "-deps", "-f", others, ".")
	cmd.Env = append(os.Environ(), "GOOS=linux", "GOARCH=amd64", "CGO_ENABLED=0", "GOFLAGS=-buildvcs=false")
	cmd.Stderr = os.Stderr
	out, err := cmd.Output()
	require.NoError(t, err)
	return sortedLines(string(out))
}

// sortedLines are the lines that are not empty, in alphabetical order.
func sortedLines(text string) string {
	lines := strings.Fields(text)
	slices.Sort(lines)
	return strings.Join(lines, "\n") + "\n"
}
