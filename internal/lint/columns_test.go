package lint

import (
	"bytes"
	"go/scanner"
	"go/token"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
	"unicode/utf8"

	"github.com/stretchr/testify/require"
)

const (
	// maxColumns is how wide a line may be; a tab is four columns.
	maxColumns = 120
	// A line is as wide as it likes where it is nothing but long texts, which are
	// found by grep only while they are whole: where it has maxCode columns with at
	// most textColumns counted of each text, and one of a run of spaces.
	maxCode     = 80
	textColumns = 20
)

// wideStill are packages and files whose lines are broken once those who change them
// now are done.
var wideStill = []string{
	"bench", "kernel", "layer", "m2n", "route", "serve", "schedule/interpret", "schedule/dryrun_test.go",
	"cmd/tandem/cluster_test.go", "model/check_test.go", "model/role.go", "model/tensors_test.go",
}

// TestColumns: a line fits beside another file on a screen.
func TestColumns(t *testing.T) {
	files(t, func(path string, text []byte) {
		if filepath.Ext(path) != ".go" || isData(path) || generatedFile.Match(text) ||
			withinAny(path, wideStill) {
			return
		}
		for _, line := range wideLines(text) {
			t.Errorf("%s:%d: the line is %d columns wide, want %d at most: break it after a comma or an operator",
				path, line.number, line.columns, maxColumns)
		}
	})
}

var generatedFile = regexp.MustCompile(`(?m)^// Code generated .* DO NOT EDIT`)

// wideLine is one that is too wide.
type wideLine struct{ number, columns int }

// wideLines finds those of a Go file.
func wideLines(source []byte) (found []wideLine) {
	saved := textSavings(source)
	for i, line := range strings.Split(string(source), "\n") {
		columns := utf8.RuneCountInString(line) + 3*strings.Count(line, "\t")
		if columns > maxColumns && columns-saved[i+1] > maxCode {
			found = append(found, wideLine{i + 1, columns})
		}
	}
	return found
}

// spaces is a run of them between code.
var spaces = regexp.MustCompile(` {2,}`)

// textSavings is, for each line, how many of its columns do not count: of its
// texts, and of the spaces that gofmt puts between columns. All columns of a line
// do not that lies within a text of several.
func textSavings(source []byte) map[int]int {
	saved := map[int]int{}
	set := token.NewFileSet()
	file := set.AddFile("", -1, len(source))
	var s scanner.Scanner
	s.Init(file, source, func(token.Position, string) {}, scanner.ScanComments)
	end, line := 0, 0
	for {
		at, kind, text := s.Scan()
		if kind == token.EOF {
			return saved
		}
		offset, first := file.Offset(at), file.Line(at)
		if gap := source[min(end, offset):offset]; first == line && !bytes.ContainsRune(gap, '\n') {
			for _, run := range spaces.FindAll(gap, -1) {
				saved[line] += len(run) - 1
			}
		}
		if kind == token.STRING {
			for i, part := range strings.Split(text, "\n") {
				saved[first+i] += max(utf8.RuneCountInString(part)-textColumns, 0)
			}
			if lines := strings.Count(text, "\n"); lines > 0 {
				for i := range lines - 1 {
					saved[first+1+i] = 1 << 20
				}
			}
		}
		end, line = offset+len(text), first+strings.Count(text, "\n")
	}
}

func TestWideLinesAreFound(t *testing.T) {
	call := "f(" + strings.Repeat("abcd, ", 20)
	text := `"` + strings.Repeat("x", 150) + `"`
	for line, wide := range map[string]bool{
		strings.Repeat("a", 120):                         false,
		strings.Repeat("a", 121):                         true,
		strings.Repeat("\t", 5) + call[:101]:             true,
		strings.Repeat("\t", 5) + call[:100]:             false,
		"f(" + text + ")":                                false,
		call[:90] + text + ")":                           true,
		"field string `help:" + text + "`":               false,
		text + ":" + strings.Repeat(" ", 90) + text:      false,
		"// " + strings.Repeat("long remark ", 12):       true,
		"x := `" + strings.Repeat("y", 200) + "` + y":    false,
		"// é" + strings.Repeat("é", 116):                false,
		"`first\n" + strings.Repeat("z", 300) + "\nend`": false,
	} {
		require.Equal(t, wide, len(wideLines([]byte("package p\n"+line))) > 0, line)
	}
}

// TestWideStillIsNeeded: what has no wide line any more is not excused.
func TestWideStillIsNeeded(t *testing.T) {
	wide := map[string]bool{}
	for _, path := range treePaths(t) {
		text, err := os.ReadFile(filepath.Join(root, path))
		if err == nil && filepath.Ext(path) == ".go" && !generatedFile.Match(text) && len(wideLines(text)) > 0 {
			for _, name := range wideStill {
				wide[name] = wide[name] || within(path, name)
			}
		}
	}
	for _, name := range wideStill {
		require.True(t, wide[name], "%s has no wide lines: take it off wideStill", name)
	}
}
