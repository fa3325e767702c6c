package api

import (
	"encoding/json"
	"fmt"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
	"pgregory.net/rapid"
)

// value draws a JSON document, with spaces where JSON allows them.
func value(depth int) *rapid.Generator[string] {
	return rapid.Custom(func(t *rapid.T) string {
		space := rapid.SampledFrom([]string{"", " ", "\n\t"})
		kinds := 4
		if depth == 0 {
			kinds = 2
		}
		text := rapid.SampledFrom([]string{`""`, `"a,b]}{[:"`, `"\\\""`, `"é\u00e9\ud83d\ude00"`})
		var v string
		switch rapid.IntRange(0, kinds-1).Draw(t, "kind") {
		case 0:
			v = text.Draw(t, "text")
		case 1:
			v = rapid.SampledFrom([]string{"0", "-1.5e3", "true", "false", "null"}).Draw(t, "word")
		case 2:
			items := rapid.SliceOfN(value(depth-1), 0, 4).Draw(t, "items")
			v = "[" + space.Draw(t, "space") + strings.Join(items, ",") + "]"
		case 3:
			items := rapid.SliceOfN(value(depth-1), 0, 4).Draw(t, "members")
			for i := range items {
				items[i] = fmt.Sprintf(`%s"k%d\n"%s:%s`, space.Draw(t, "space"), i, space.Draw(t, "space"), items[i])
			}
			v = "{" + strings.Join(items, ",") + space.Draw(t, "space") + "}"
		}
		return space.Draw(t, "space") + v + space.Draw(t, "space")
	})
}

// TestWalk: taken apart by eachMember and eachElement, a document is what
// encoding/json reads.
func TestWalk(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		document := value(4).Draw(t, "document")
		require.NoError(t, checkJSON([]byte(document)))
		var want any
		require.NoError(t, json.Unmarshal([]byte(document), &want))
		require.Equal(t, want, read(t, trim([]byte(document))))
	})
}

// read is what encoding/json would make of a value.
func read(t *rapid.T, raw []byte) any {
	switch raw[0] {
	case '[':
		list := []any{}
		require.NoError(t, eachElement(raw, func(i int, e []byte) error {
			require.Equal(t, len(list), i)
			list = append(list, read(t, e))
			return nil
		}))
		return list
	case '{':
		object := map[string]any{}
		require.NoError(t, eachMember(raw, func(m member) error {
			object[m.key] = read(t, m.raw)
			return nil
		}))
		return object
	case '"':
		return unquote(raw)
	}
	var v any
	require.NoError(t, json.Unmarshal(raw, &v))
	return v
}

// TestCheckJSONRefuses: where the fault is, and what.
func TestCheckJSONRefuses(t *testing.T) {
	many := make([]string, maxMembers+1)
	for i := range many {
		many[i] = fmt.Sprintf(`"%d":0`, i)
	}
	for document, want := range map[string]string{
		`{"a":{"b":[{"c":1,"c":2}]}}`:                           "a.b[0].c is given twice",
		`{"a\u0062":1,"ab":2}`:                                  "ab is given twice",
		`[["\udfff"]]`:                                          `[0][0] has half a surrogate pair, \udfff`,
		`{"a":"\\ud800 is text, \ud800x is not"}`:               `a has half a surrogate pair, \ud800`,
		`"` + "\xed\xa0\x80" + `"`:                              "the body is not valid UTF-8 (at byte 1)",
		`{"a":{` + strings.Join(many, ",") + `}}`:               "a has more than 4096 fields",
		strings.Repeat(`{"a":`, 65) + `1`:                       "the body nests deeper than 64 levels",
		strings.Repeat(`[`, 1<<20):                              "the body nests deeper than 64 levels",
		`{"a":1}{`:                                              "the body is not valid JSON (at byte 8): invalid character '{' after top-level value",
		strings.Repeat(`[`, 64) + strings.Repeat(`]`, 64) + `,`: "the body is not valid JSON (at byte 129): invalid character ',' after top-level value",
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
