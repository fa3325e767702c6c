package docs

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/tandem-moe/tandem/internal/golden"
)

// Regenerate is the command that brings generated sections up to date.
const Regenerate = "make generate"

// Hold compares a generated section of a page in docs/ with what the code says,
// and fails the test where they differ; with -update it writes the section. root
// is the path of the module's root from the test's folder.
//
// In the page a section stands between two comments, of which the first names
// it: <!-- generated: NAME --> and <!-- end of NAME -->. What is outside of
// sections is written by people.
func Hold(t testing.TB, root, page, name, want string) {
	t.Helper()
	file := filepath.Join(root, "docs", page)
	text, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	got, err := replaceSection(string(text), name, want)
	if err != nil {
		t.Fatalf("docs/%s: %v", page, err)
	}
	if got == string(text) {
		return
	}
	if !golden.Update() {
		t.Errorf("docs/%s: the section %q is not what the code says: run %q, and commit what it makes. The code says:\n%s", page, name, Regenerate, want)
		return
	}
	if err := os.WriteFile(file, []byte(got), 0o644); err != nil {
		t.Fatal(err)
	}
}

// replaceSection is a page with one section's content replaced.
func replaceSection(text, name, content string) (string, error) {
	begin, end := fmt.Sprintf("<!-- generated: %s -->\n", name), fmt.Sprintf("<!-- end of %s -->\n", name)
	before, rest, ok := strings.Cut(text, begin)
	_, after, closed := strings.Cut(rest, end)
	if !ok || !closed {
		return "", fmt.Errorf("there is no section between %q and %q", strings.TrimSpace(begin), strings.TrimSpace(end))
	}
	return before + begin + "\n" + strings.TrimSpace(content) + "\n\n" + end + after, nil
}

// Table writes a table in Markdown. Cells may hold no line breaks.
func Table(header []string, rows [][]string) string {
	var out strings.Builder
	line := func(cells []string) {
		for _, c := range cells {
			out.WriteString("| " + strings.ReplaceAll(c, "|", `\|`) + " ")
		}
		out.WriteString("|\n")
	}
	line(header)
	out.WriteString(strings.Repeat("|---", len(header)) + "|\n")
	for _, r := range rows {
		line(r)
	}
	return out.String()
}
