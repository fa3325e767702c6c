package docs

import (
	"testing"

	"github.com/stretchr/testify/require"
)

func TestReplaceSection(t *testing.T) {
	page := "by hand\n<!-- generated: a -->\nold\n<!-- end of a -->\nby hand, too\n"
	got, err := replaceSection(page, "a", "new\n")
	require.NoError(t, err)
	require.Equal(t, "by hand\n<!-- generated: a -->\n\nnew\n\n<!-- end of a -->\nby hand, too\n", got)
	again, err := replaceSection(got, "a", "new")
	require.NoError(t, err)
	require.Equal(t, got, again)
	for _, broken := range []string{"", "<!-- generated: a -->\n", "<!-- end of a -->\n<!-- generated: a -->\n",
		"<!-- generated: b -->\n<!-- end of b -->\n"} {
		_, err := replaceSection(broken, "a", "new")
		require.Error(t, err, broken)
	}
}

func TestTable(t *testing.T) {
	require.Equal(t, "| a | b |\n|---|---|\n| 1 | x \\| y |\n", Table([]string{"a", "b"}, [][]string{{"1", "x | y"}}))
}
