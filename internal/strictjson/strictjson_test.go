package strictjson

import (
	"encoding/json"
	"fmt"
	"runtime"
	"strings"
	"testing"
	"unicode/utf8"

	"github.com/stretchr/testify/require"
	"pgregory.net/rapid"
)

var limits = Limits{Depth: 8, Members: 20}

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

// TestWalk: taken apart by Members and Elements, a document is what
// encoding/json reads.
func TestWalk(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		document := value(4).Draw(t, "document")
		require.NoError(t, Check([]byte(document), limits))
		var want any
		require.NoError(t, json.Unmarshal([]byte(document), &want))
		require.Equal(t, want, read(t, Trim([]byte(document))))
	})
}

// read is what encoding/json would make of a value.
func read(t require.TestingT, raw []byte) any {
	switch raw[0] {
	case '[':
		list := []any{}
		for i, e := range Elements(raw) {
			require.Equal(t, len(list), i)
			list = append(list, read(t, e.Value))
		}
		return list
	case '{':
		object := map[string]any{}
		for m := range Members(raw) {
			require.Equal(t, string(m.Value), string(raw[m.At:m.At+len(m.Value)]))
			object[m.Name] = read(t, m.Value)
		}
		return object
	case '"':
		return Text(raw)
	}
	var v any
	require.NoError(t, json.Unmarshal(raw, &v))
	return v
}

// TestCheckRefuses: what the fault is, and where.
func TestCheckRefuses(t *testing.T) {
	many := make([]string, limits.Members+1)
	for i := range many {
		many[i] = fmt.Sprintf(`"%d":0`, i)
	}
	most := "{" + strings.Join(many[1:], ",") + "}"
	for _, c := range []struct {
		document, path string
		at             int64
		reason         string
	}{
		{``, "", 0, "is not valid JSON"},
		{`{"a":1}{`, "", 8, "is not valid JSON"},
		{"\"\xed\xa0\x80\"", "", 1, "is not valid UTF-8"},
		{strings.Repeat(`[`, 9) + strings.Repeat(`]`, 9), "", -1, "nests deeper than 8 levels"},
		{strings.Repeat(`[`, 1<<20), "", -1, "nests deeper than 8 levels"},
		{` {"a": {"b" : [0, {"c":1, "c" : 2}]}}`, "a.b[1].c", 32, "is given twice"},
		{`{"a\u0062":1,"ab":2}`, "ab", 18, "is given twice"},
		{strings.Replace(most, `:0}`, `:0,"20":0}`, 1), "20", 137, "is given twice"},
		{`{"a":{` + strings.Join(many, ",") + `}}`, "a", -1, "has more than 20 fields"},
		{`[["\udfff"]]`, "[0][0]", -1, `has half a surrogate pair, \udfff`},
		{`{"a":"\\ud800 is text, \ud800x is not"}`, "a", -1, `has half a surrogate pair, \ud800`},
		{`{"` + strings.Repeat("é", 500) + `":"\ud800"}`, strings.Repeat("é", 40) + "…", -1, "has half"},
	} {
		err := Check([]byte(c.document), limits)
		var e *Error
		require.ErrorAs(t, err, &e, c.document)
		require.Equal(t, c.path, e.Path, c.document)
		require.Equal(t, c.at, e.At, c.document)
		require.Contains(t, e.Reason, c.reason)
	}
	require.NoError(t, Check([]byte(most), limits))
	require.NoError(t, Check([]byte(strings.Repeat(`[`, 8)+strings.Repeat(`]`, 8)), limits))
}

func TestErrorIsASentence(t *testing.T) {
	require.EqualError(t, Check([]byte(`{"a":1,"a":2}`), limits), "a is given twice (at byte 11)")
	err := Check([]byte(`{"a" 1}`), limits)
	require.EqualError(t, err, "the document is not valid JSON (at byte 6): invalid character '1' after object key")
	var syntax *json.SyntaxError
	require.ErrorAs(t, err, &syntax)
}

func TestObject(t *testing.T) {
	raw, err := Object([]byte(" \n{ \"a\": 1 } "), limits)
	require.NoError(t, err)
	require.Equal(t, `{ "a": 1 }`, string(raw))
	for _, text := range []string{"", "  ", "[]", `"{}"`} {
		_, err := Object([]byte(text), limits)
		require.ErrorContains(t, err, "is not a JSON object")
	}
	_, err = Object([]byte(`{`), limits)
	require.ErrorContains(t, err, "unexpected end of JSON input")
}

func TestKind(t *testing.T) {
	for raw, kind := range map[string]string{`""`: "a string", "{}": "an object", "[]": "a list", "true": "a boolean",
		"false": "a boolean", "null": "null", "-1": "a number", "0": "a number"} {
		require.Equal(t, kind, Kind([]byte(raw)))
		require.Equal(t, raw == "null", IsNull([]byte(raw)))
	}
}

// FuzzCheck: what passes is what encoding/json reads, in whatever order; what does
// not has one of the faults that the error names.
func FuzzCheck(f *testing.F) {
	for _, seed := range []string{
		`{"a":{"b":[1,-2.5e3,true,false,null,"\ud83d\ude00é\n"]},"a2":[]}`, ` [ { } , [ ] , "" ] `, `{"a":1,"a":2}`,
		`["\ud800"]`, "\"\xff\"",
		`[[[[[[[[[[]]]]]]]]]]`, `{"a" 1}`, `1 2`, "",
	} {
		f.Add([]byte(seed))
		f.Add([]byte(seed[:len(seed)/2]))
	}
	f.Fuzz(func(t *testing.T, data []byte) {
		var before, after runtime.MemStats
		runtime.ReadMemStats(&before)
		err := Check(data, limits)
		runtime.ReadMemStats(&after)
		require.Less(t, after.TotalAlloc-before.TotalAlloc, 64<<10+50*uint64(len(data)))
		var want any
		readable := json.Unmarshal(data, &want) == nil
		if err == nil {
			require.True(t, readable)
			require.Equal(t, want, read(t, Trim(data)))
			return
		}
		var e *Error
		require.ErrorAs(t, err, &e)
		require.LessOrEqual(t, e.At, int64(len(data)))
		switch e.Reason {
		case "is not valid JSON":
			require.False(t, readable)
		case "is not valid UTF-8":
			require.False(t, utf8.Valid(data))
		case "is given twice":
			require.True(t, readable)
			require.Greater(t, e.At, int64(0))
		default:
			require.Regexp(t, `^(nests deeper than 8 levels|has more than 20 fields|has half a surrogate pair, .*)$`, e.Reason)
		}
	})
}
