package exchange

import (
	"context"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

// installed puts a shell script into a folder, the only one in PATH with its
// interpreter's, under a program's name.
func installed(t *testing.T, program, script string) (path string) {
	t.Helper()
	dir := t.TempDir()
	path = filepath.Join(dir, program)
	require.NoError(t, os.WriteFile(path, []byte("#!/bin/sh\n"+script+"\n"), 0o700))
	t.Setenv("PATH", dir+string(filepath.ListSeparator)+"/usr/bin")
	return path
}

// TestPeerOutsideOfACheckout: the one in PATH, or what to do is said in a line.
func TestPeerOutsideOfACheckout(t *testing.T) {
	t.Chdir(t.TempDir())
	path := installed(t, grpcProgram, "exit 0")
	found, err := peer(t.Context(), "", grpcProgram)
	require.NoError(t, err)
	require.Equal(t, path, found)
	_, err = peer(t.Context(), "", figuresProgram)
	require.ErrorIs(t, err, errMissing)
	require.EqualError(t, err, `tandem-bench-figures: not installed in PATH, and not built: the working directory is in no checkout of Tandem; `+
		`in a checkout of Tandem "go install -C bench/peers ./..." installs it`)
}

// TestPeersSource: the checkout is found from a folder of it, and another module
// of the same place is not taken for it.
func TestPeersSource(t *testing.T) {
	here, err := os.Getwd()
	require.NoError(t, err)
	source, err := peersSource()
	require.NoError(t, err)
	require.Equal(t, filepath.Join(filepath.Dir(filepath.Dir(here)), "bench", "peers"), source)

	stranger := t.TempDir()
	require.NoError(t, os.MkdirAll(filepath.Join(stranger, "bench", "peers"), 0o700))
	require.NoError(t, os.WriteFile(filepath.Join(stranger, "bench", "peers", "go.mod"), []byte("module example.com/peers\n"), 0o600))
	t.Chdir(filepath.Join(stranger, "bench"))
	_, err = peersSource()
	require.ErrorContains(t, err, "in no checkout of Tandem")
}

// TestBuildThatFails is missing, with the command and what it said in one line;
// one that hangs ends with its context.
func TestBuildThatFails(t *testing.T) {
	installed(t, "go", "echo no route to the module proxy >&2; echo at all >&2; exit 3")
	_, err := peer(t.Context(), t.TempDir(), grpcProgram)
	require.ErrorIs(t, err, errMissing)
	require.ErrorContains(t, err, "CGO_ENABLED=0 GOWORK=off go build -C")
	require.ErrorContains(t, err, "./tandem-bench-grpc: exit status 3: no route to the module proxy at all")

	installed(t, "go", "sleep 30 & sleep 30")
	ctx, cancel := context.WithTimeout(t.Context(), 100*time.Millisecond)
	defer cancel()
	begin := time.Now()
	_, err = peer(ctx, t.TempDir(), grpcProgram)
	require.ErrorIs(t, err, context.DeadlineExceeded)
	require.Less(t, time.Since(begin), 20*time.Second, "its children do not keep it open")
}

// TestFigures are drawn by the program that is built from this checkout.
func TestFigures(t *testing.T) {
	if testing.Short() {
		t.Skip("a program of its own shows nothing to a short test")
	}
	f, err := OpenFigures(t.Context())
	require.NoError(t, err)
	dir := filepath.Join(t.TempDir(), "new")
	files, err := f.Draw(t.Context(), exampleReport(), dir)
	require.NoError(t, err)
	require.Equal(t, []string{filepath.Join(dir, "figure5.svg"), filepath.Join(dir, "figure11.svg"), filepath.Join(dir, "figure12.svg")}, files)
	for _, file := range files {
		text, err := os.ReadFile(file)
		require.NoError(t, err)
		require.Contains(t, string(text), "</svg>")
	}
	files, err = f.Draw(t.Context(), &Report{}, dir)
	require.NoError(t, err)
	require.Empty(t, files)
	require.NoError(t, f.Close())
	require.NoDirExists(t, f.folder)
}

// TestDrawingThatFails: what the program said is in the error.
func TestDrawingThatFails(t *testing.T) {
	t.Chdir(t.TempDir())
	path := installed(t, figuresProgram, "echo half of it; echo the disk is full >&2; exit 1")
	f, err := OpenFigures(t.Context())
	require.NoError(t, err)
	_, err = f.Draw(t.Context(), exampleReport(), "there")
	require.EqualError(t, err, path+" there: exit status 1: the disk is full")
	require.NoError(t, f.Close())
}
