package api

import (
	"fmt"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
)

// TestCheckJSONRefuses: where the fault is, and what.
func TestCheckJSONRefuses(t *testing.T) {
	many := make([]string, maxMembers+1)
	for i := range many {
		many[i] = fmt.Sprintf(`"%d":0`, i)
	}
	for document, want := range map[string]string{
		`{"a":{"b":[{"c":1,"c":2}]}}`:             "a.b[0].c is given twice",
		`{"a\u0062":1,"ab":2}`:                    "ab is given twice",
		`[["\udfff"]]`:                            `[0][0] has half a surrogate pair, \udfff`,
		`{"a":"\\ud800 is text, \ud800x is not"}`: `a has half a surrogate pair, \ud800`,
		`"` + "\xed\xa0\x80" + `"`:                "the body is not valid UTF-8 (at byte 1)",
		`{"a":{` + strings.Join(many, ",") + `}}`: "a has more than 4096 fields",
		strings.Repeat(`{"a":`, 65) + `1`:         "the body nests deeper than 64 levels",
		strings.Repeat(`[`, 1<<20):                "the body nests deeper than 64 levels",
		`{"a":1}{`:                                "the body is not valid JSON (at byte 8): invalid character '{' after top-level value",
		strings.Repeat(`[`, 64) + strings.Repeat(`]`, 64) +
			`,`: "the body is not valid JSON (at byte 129): invalid character ',' after top-level value",
	} {
		require.EqualError(t, checkJSON([]byte(document)), want)
	}
	require.NoError(t, checkJSON([]byte(strings.Repeat(`[`, 64)+strings.Repeat(`]`, 64))))
}

func TestInteger(t *testing.T) {
	for raw, want := range map[string]int64{"0": 0, "-3": -3, "3.0": 3, "3e2": 300, "9223372036854775807": 1<<63 - 1} {
		got, ok := integer([]byte(raw))
		require.True(t, ok, raw)
		require.Equal(t, want, got)
	}
	for _, raw := range []string{"0.5", "1e300", "9223372036854775808", `"1"`} {
		_, ok := integer([]byte(raw))
		require.False(t, ok, raw)
	}
}
