//go:build unix

package hub

import (
	"io/fs"
	"path/filepath"
	"syscall"
	"testing"

	"github.com/stretchr/testify/require"
)

// TestPipesAreNoFiles: to open one would wait for somebody to write to it.
func TestPipesAreNoFiles(t *testing.T) {
	dir := t.TempDir()
	require.NoError(t, syscall.Mkfifo(filepath.Join(dir, "config.json"), 0o600))
	_, err := fs.ReadFile(Files(dir), "config.json")
	require.ErrorContains(t, err, "config.json in "+dir+" is no regular file")
}
