package golden

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"testing"

	"github.com/stretchr/testify/require"
)

// sum adds up what a script tells it.
func sum() Verbs {
	total := 0
	return Verbs{
		"add": func(t *testing.T, c *Command) string {
			c.Known(t, "times")
			n, times := 0, 1
			_, err := fmt.Sscan(c.Word(t, 0), &n)
			require.NoError(t, err)
			c.MaybeScanArgs(t, "times", &times)
			total += n * times
			return ""
		},
		"show": func(_ *testing.T, c *Command) string { return fmt.Sprintf("%d at %v", total, c.Now) },
	}
}

func TestScripts(t *testing.T) { Scripts(t, sum) }

func TestFile(t *testing.T) { File(t, "file.golden", "one\ntwo\n") }

// wrong is a script, what of it fails, and what it is once it is written anew.
var wrong = map[string]struct{ script, says, updated string }{
	"other output":     {"add 1\nshow\n----\n2 at 0s\n", "wrong.txt:1", "add 1\nshow\n----\n1 at 0s\n"},
	"no output":        {"add 1\n# remark\n@2ms show\n", "1 at 2ms", "add 1\n# remark\n@2ms show\n----\n1 at 2ms\n"},
	"unknown verb":     {"add 1\nshow\nsub 1\n----\n", `unknown verb "sub", want one of ["add" "show"]`, ""},
	"unused verb":      {"add 1\n----\n", `no script in testdata uses the verbs ["show"]`, ""},
	"unknown argument": {"add 1 time=2\n----\n", `unknown argument time, want one of ["times"]`, ""},
	"missing argument": {"add\n----\n", "add: 0 arguments, want more than 0", ""},
	"bad time":         {"@2 show\n----\n", `missing unit in duration "2"`, ""},
	"time alone":       {"@2ms\n----\n", "no verb follows the time @2ms", ""},
}

// TestWrongScripts runs this test binary on scripts that are wrong.
func TestWrongScripts(t *testing.T) {
	for name, w := range wrong {
		t.Run(name, func(t *testing.T) {
			folder := t.TempDir()
			path := filepath.Join(folder, "testdata", "wrong.txt")
			write(t, path, w.script)
			out, err := inFolder(t, folder, "TestScripts")
			require.Error(t, err, out)
			require.Contains(t, out, w.says)
			if w.updated != "" {
				out, err = inFolder(t, folder, "TestScripts", "-update")
				require.NoError(t, err, out)
				text, err := os.ReadFile(path)
				require.NoError(t, err)
				require.Equal(t, w.updated, string(text))
				out, err = inFolder(t, folder, "TestScripts")
				require.NoError(t, err, out)
			}
		})
	}
}

// TestWrongFile: a file that differs is shown, one that is missing is written.
func TestWrongFile(t *testing.T) {
	folder := t.TempDir()
	out, err := inFolder(t, folder, "TestFile")
	require.Error(t, err)
	require.Contains(t, out, "file.golden: no such file")
	write(t, filepath.Join(folder, "testdata", "file.golden"), "one\nthree\n")
	out, err = inFolder(t, folder, "TestFile")
	require.Error(t, err)
	require.Contains(t, out, "three")
	out, err = inFolder(t, folder, "TestFile", "-update")
	require.NoError(t, err, out)
	out, err = inFolder(t, folder, "TestFile")
	require.NoError(t, err, out)
}

// inFolder runs one of this package's tests in another folder.
func inFolder(t *testing.T, folder, name string, args ...string) (string, error) {
	cmd := exec.CommandContext(t.Context(), os.Args[0], append([]string{"-test.run", "^" + name + "$"}, args...)...)
	cmd.Dir = folder
	out, err := cmd.CombinedOutput()
	return string(out), err
}
