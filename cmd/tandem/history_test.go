package main

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
)

// TestHistory is kept from one conversation to the next, for nobody else to read,
// and no larger than it may be.
func TestHistory(t *testing.T) {
	t.Setenv("XDG_STATE_HOME", t.TempDir())
	file := filepath.Join(os.Getenv("XDG_STATE_HOME"), "tandem", "chat-history")
	h, err := openHistory()
	require.NoError(t, err)
	require.Empty(t, h.lines)
	require.NoFileExists(t, file, "nothing was typed")
	h.add("one")
	h.add("zwei 世界")
	h.add(strings.Repeat("x", maxHistoryLine+1))
	again, err := openHistory()
	require.NoError(t, err)
	require.Equal(t, []string{"one", "zwei 世界"}, again.lines)
	require.NoError(t, os.Chmod(file, 0o644)) //nolint:gosec // too open, on purpose
	for i := range maxHistory {
		again.add(fmt.Sprint("line ", i))
	}
	again, err = openHistory()
	require.NoError(t, err)
	require.Len(t, again.lines, maxHistory/2)
	require.Equal(t, fmt.Sprint("line ", maxHistory-1), again.lines[len(again.lines)-1])
	info, err := os.Stat(file)
	require.NoError(t, err)
	require.Equal(t, os.FileMode(0o600), info.Mode())
	require.Less(t, info.Size(), int64(16<<10))

	require.NoError(t, os.WriteFile(file, []byte(strings.Repeat("y", 3*maxHistoryBytes)+"\nlast\n"), 0o600))
	again, err = openHistory()
	require.NoError(t, err)
	require.Equal(t, []string{"last"}, again.lines)
	info, err = os.Stat(file)
	require.NoError(t, err)
	require.Less(t, info.Size(), int64(16<<10), "the older part goes")
	require.NoError(t, os.WriteFile(file, []byte("\x00\xff\n\r\n \nno end"), 0o600))
	again, err = openHistory()
	require.NoError(t, err)
	require.Equal(t, []string{"\x00\xff", " ", "no end"}, again.lines)
	require.NoError(t, os.Remove(file))
	require.NoError(t, os.Mkdir(file, 0o700))
	_, err = openHistory()
	require.ErrorContains(t, err, "is no file")
}
