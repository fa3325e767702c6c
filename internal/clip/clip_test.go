package clip

import (
	"strings"
	"testing"
	"unicode/utf8"

	"github.com/stretchr/testify/require"
)

func TestText(t *testing.T) {
	for _, c := range []struct {
		text string
		most int
		want string
	}{
		{"", 0, ""},
		{"abc", 3, "abc"},
		{"abcd", 3, "…"},
		{"abcdef", 5, "ab…"},
		{"aééé", 6, "aé…"},
		{"aééé", 5, "a…"},
		{"\x80\x80\x80\x80\x80", 4, "…"},
	} {
		require.Equal(t, c.want, Text(c.text, c.most), "%q, %d bytes", c.text, c.most)
	}
	long := strings.Repeat("漢é", 100)
	for most := len(ellipsis); most < len(long); most++ {
		got := Text(long, most)
		require.True(t, utf8.ValidString(got))
		require.LessOrEqual(t, len(got), most)
	}
}
