package tokenizer

import (
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"sync"
	"testing"
	"testing/fstest"
	"unicode/utf8"

	"github.com/stretchr/testify/require"
)

// byName finds a fixture's tokenizer.
func byName(t testing.TB, name string) *Tokenizer {
	t.Helper()
	for _, f := range readFixtures(t) {
		if f.Name == name {
			tok, err := parseAlone(f.Tokenizer)
			require.NoError(t, err)
			return tok
		}
	}
	require.Fail(t, "no fixture", name)
	return nil
}

func TestTokens(t *testing.T) {
	g := byName(t, "gpt2")
	end, ok := g.ID("<|end|>")
	require.True(t, ok)
	require.True(t, g.IsSpecial(end))
	require.Equal(t, "<|end|>", string(g.TokenBytes(end)))
	id, ok := g.ID("Ġw")
	require.True(t, ok)
	require.Equal(t, "Ġw", g.Piece(id))
	require.Equal(t, " w", string(g.TokenBytes(id)))
	require.False(t, g.IsSpecial(id))
	for _, id := range []int32{-1, int32(g.VocabSize()), 1 << 30} {
		require.False(t, g.Has(id))
		require.Empty(t, g.TokenBytes(id))
		require.Empty(t, g.Piece(id))
		require.Empty(t, g.Decode([]int32{id}, false))
		require.Empty(t, g.NewStream(false).Push(id))
	}

	m := byName(t, "mixtral")
	id, ok = m.ID("<0xE2>")
	require.True(t, ok)
	require.Equal(t, []byte{0xE2}, m.TokenBytes(id))
	id, ok = m.ID("▁low")
	require.True(t, ok)
	require.Equal(t, " low", string(m.TokenBytes(id)))
	require.Equal(t, "low", m.Decode([]int32{id}, false), "the first space goes")
	require.Equal(t, "low low", m.Decode([]int32{id, id}, false))
}

// TestTokenBytesJoin: in a byte-level vocabulary the tokens' bytes are the text.
func TestTokenBytesJoin(t *testing.T) {
	g := byName(t, "o200k")
	for _, text := range []string{"héllo wörld", "日本語 👍🏽\n", "a\xffb"} {
		var joined []byte
		for _, id := range encoded(g, text, false) {
			joined = append(joined, g.TokenBytes(id)...)
		}
		require.Equal(t, strings.ToValidUTF8(text, "\ufffd"), string(joined))
	}
}

// TestStream: text comes as soon as it can no longer change, and not earlier.
func TestStream(t *testing.T) {
	g := byName(t, "gpt2")
	s := g.NewStream(false)
	var got []string
	for _, b := range []byte("a👍é") {
		id, ok := g.ID(byteChars[b])
		require.True(t, ok)
		got = append(got, s.Push(id))
	}
	require.Equal(t, []string{"a", "", "", "", "👍", "", "é"}, got)
	require.Empty(t, s.Flush())

	s = g.NewStream(false)
	id, _ := g.ID(byteChars[0xF0])
	require.Empty(t, s.Push(id))
	require.Equal(t, "\ufffd", s.Flush())

	m := byName(t, "mixtral")
	s = m.NewStream(true)
	got = nil
	for _, piece := range []string{"<s>", "▁low", "▁", "<0xE2>", "<0x82>", "<0xAC>", "▁low", "<0xE2>"} {
		id, ok := m.ID(piece)
		require.True(t, ok, piece)
		got = append(got, s.Push(id))
	}
	require.Equal(t, []string{"", "low", " ", "", "", "", "€ low", ""}, got)
	require.Equal(t, "\ufffd", s.Flush())
}

// TestInvalidUTF8: each piece that could have begun a character is one U+FFFD, as
// in Python and Rust.
func TestInvalidUTF8(t *testing.T) {
	for text, want := range map[string]string{
		"a\xffb":                       "a\ufffdb",
		"\xff\xfe":                     "\ufffd\ufffd",
		"\xf0\x9f\x98":                 "\ufffd",
		"\xf0\x9f\x98a":                "\ufffda",
		"\xe2\x82\xe2\x82\xac":         "\ufffd€",
		"\xed\xa0\x80":                 "\ufffd\ufffd\ufffd",
		"\xf0\x80\x80":                 "\ufffd\ufffd\ufffd",
		"\xc0\xaf":                     "\ufffd\ufffd",
		"\xf4\x90\x80\x80":             "\ufffd\ufffd\ufffd\ufffd",
		"ok\ufffd":                     "ok\ufffd",
		"\xe1\x80\xe2\xf0\x91\x92\xf1": "\ufffd\ufffd\ufffd\ufffd",
	} {
		require.Equal(t, want, validUTF8(text), "%q", text)
	}
	g := byName(t, "gpt2")
	require.Equal(t, encoded(g, "a\ufffdb", false), encoded(g, "a\xffb", false))
	require.Empty(t, encoded(g, "", true))
}

// TestMarshal: what is written reads back to the same tokenizer.
func TestMarshal(t *testing.T) {
	for _, f := range readFixtures(t) {
		tok, err := parseAlone(f.Tokenizer)
		require.NoError(t, err)
		data, err := json.Marshal(tok)
		require.NoError(t, err)
		again, err := parseAlone(data)
		require.NoError(t, err, f.Name)
		require.Equal(t, tok.VocabSize(), again.VocabSize())
		for _, c := range f.Cases {
			require.Equal(t, encoded(tok, c.Text, true), encoded(again, c.Text, true))
		}
		twice, err := json.Marshal(again)
		require.NoError(t, err)
		require.Equal(t, data, twice)
	}
}

// TestConcurrent: goroutines share a tokenizer and its cache.
func TestConcurrent(t *testing.T) {
	tok := byName(t, "llama3")
	var wg sync.WaitGroup
	for range 4 {
		wg.Go(func() {
			for i := range 200 {
				text := fmt.Sprintf("hello world %d it's", i)
				if got := tok.Decode(encoded(tok, text, false), false); got != text {
					t.Errorf("%q came back as %q", text, got)
				}
			}
		})
	}
	wg.Wait()
}

func TestCacheIsBounded(t *testing.T) {
	var c wordCache
	for i := range 3 * cacheWords {
		c.put(fmt.Sprint(i), []int32{int32(i)})
		require.LessOrEqual(t, len(c.words), cacheWords)
	}
	ids, ok := c.get(fmt.Sprint(3*cacheWords - 1))
	require.True(t, ok)
	require.Equal(t, []int32{3*cacheWords - 1}, ids)
	c.put(strings.Repeat("x", cacheWordSize+1), nil)
	_, ok = c.get(strings.Repeat("x", cacheWordSize+1))
	require.False(t, ok)
}

// small is a tokenizer.json with a place for more fields.
const small = `{"version": "1.0", "added_tokens": [], "model": {"type": "BPE", "vocab": {"a": 0, "b": 1, "ab": 2}, "merges": ["a b"]}%s}`

func TestRefused(t *testing.T) {
	_, err := parseAlone(fmt.Appendf(nil, small, ""))
	require.NoError(t, err)
	with := func(field string) string { return fmt.Sprintf(small, ", "+field) }
	model := func(m string) string { return `{"model": ` + m + `}` }
	many := strings.TrimSuffix(strings.Repeat(`{"type": "NFC"},`, 100), ",")
	for text, want := range map[string]string{
		``:                   "ends too early",
		`{`:                  "ends too early",
		`[]`:                 "cannot unmarshal array",
		`{"model": {}} x`:    "without a type",
		`{"version": "2.0"}`: `version is "2.0"`,
		`{"nope": 1}`:        `unknown field "nope"`,
		model(`{"type": "BPE", "vocab": {}, "merges": [], "nope": 1}`):                                                                                      `unknown field "nope"`,
		model(`{"type": "Unigram", "vocab": [["a", 0.5]]}`):                                                                                                 "model Unigram is not supported",
		model(`{"type": "WordPiece"}`):                                                                                                                      "model WordPiece is not supported",
		model(`{"type": "BPE", "vocab": {"a": 0}}`):                                                                                                         "merges is missing",
		model(`{"type": "BPE", "vocab": {"a": -1}, "merges": []}`):                                                                                          `the id of "a" is -1`,
		model(`{"type": "BPE", "vocab": {"a": 99999}, "merges": []}`):                                                                                       `the id of "a" is 99999`,
		model(`{"type": "BPE", "vocab": {"a": 0, "b": 0}, "merges": []}`):                                                                                   "have one id, 0",
		model(`{"type": "BPE", "vocab": {"a": 0, "b": 1}, "merges": ["a b"]}`):                                                                              "no token for both",
		model(`{"type": "BPE", "vocab": {"a": 0, "b": 1}, "merges": ["a c"]}`):                                                                              `vocab has no "c"`,
		model(`{"type": "BPE", "vocab": {"a": 0, "b": 1}, "merges": ["c a"]}`):                                                                              `vocab has no "c"`,
		model(`{"type": "BPE", "vocab": {"a": 0}, "merges": ["a"]}`):                                                                                        `merges[0] is "a"`,
		model(`{"type": "BPE", "vocab": {"a": 0}, "merges": [["a"]]}`):                                                                                      "merges[0] has 1 tokens",
		model(`{"type": "BPE", "vocab": {"a": 0}, "merges": [], "dropout": 0.1}`):                                                                           "dropout is 0.1",
		with(`"normalizer": {"type": "Precompiled"}`):                                                                                                       `normalizer: type "Precompiled" is not supported`,
		with(`"normalizer": {"type": "Sequence", "normalizers": [{"type": "Nope"}]}`):                                                                       `type "Nope" is not supported`,
		with(`"normalizer": {"type": "NFC", "more": 1}`):                                                                                                    `NFC: json: unknown field "more"`,
		with(`"normalizer": {"type": "Sequence", "normalizers": [` + many + `]}`):                                                                           "more than 32 components",
		with(`"normalizer": {"type": "Replace", "pattern": {"String": ""}, "content": "a"}`):                                                                "String is empty",
		with(`"normalizer": {}`):                                                                                                                            "type is missing",
		with(`"pre_tokenizer": {"type": "BertPreTokenizer"}`):                                                                                               `pre_tokenizer: type "BertPreTokenizer" is not supported`,
		with(`"pre_tokenizer": {"type": "Split", "pattern": {}, "behavior": "Isolated", "invert": false}`):                                                  "want one of String and Regex",
		with(`"pre_tokenizer": {"type": "Split", "pattern": {"String": "a"}, "behavior": "Nope", "invert": false}`):                                         `behavior "Nope"`,
		with(`"pre_tokenizer": {"type": "Split", "pattern": {"Regex": "(a"}, "behavior": "Isolated", "invert": false}`):                                     "a group without an end",
		with(`"pre_tokenizer": {"type": "Split", "pattern": {"Regex": "(?i)ss"}, "behavior": "Isolated", "invert": false}`):                                 `"ss" without regard to case`,
		with(`"pre_tokenizer": {"type": "Split", "pattern": {"Regex": "(a)\\1"}, "behavior": "Isolated", "invert": false}`):                                 `the escape \1`,
		with(`"pre_tokenizer": {"type": "Split", "pattern": {"Regex": "\\p{No}"}, "behavior": "Isolated", "invert": 1}`):                                    "cannot unmarshal",
		with(`"pre_tokenizer": {"type": "Split", "pattern": {"Regex": "\\p{Nope}"}, "behavior": "Removed", "invert": true}`):                                `the property "Nope"`,
		with(`"pre_tokenizer": {"type": "Metaspace", "replacement": "ab"}`):                                                                                 "want one character",
		with(`"pre_tokenizer": {"type": "Metaspace", "replacement": "_", "prepend_scheme": "nope"}`):                                                        `prepend_scheme "nope"`,
		with(`"pre_tokenizer": {"type": "FixedLength", "length": 0}`):                                                                                       "length is 0",
		with(`"post_processor": {"type": "Nope"}`):                                                                                                          `post_processor: type "Nope"`,
		with(`"post_processor": {"type": "TemplateProcessing", "single": [{"SpecialToken": {"id": "x", "type_id": 0}}], "pair": [], "special_tokens": {}}`): `special_tokens has no "x"`,
		with(`"post_processor": {"type": "TemplateProcessing", "single": [], "pair": [], "special_tokens": {}}`):                                            "the text 0 times",
		with(`"post_processor": {"type": "BertProcessing", "sep": ["a", 9], "cls": ["b", 1]}`):                                                              "the id 9, which is no token",
		with(`"post_processor": {"type": "BertProcessing", "sep": ["a"], "cls": ["b", 1]}`):                                                                 "want a token and its id",
		with(`"decoder": {"type": "WordPiece"}`):                                                                                                            `decoder: type "WordPiece"`,
		with(`"decoder": {"type": "Strip", "content": "ab", "start": 1, "stop": 0}`):                                                                        "want one character",
		strings.Replace(fmt.Sprintf(small, ""), `[]`, `[{"id": 9, "content": "x"}]`,
			1): `the id of "x" is 9, but its place in the vocabulary is 3`,
		strings.Replace(fmt.Sprintf(small, ""), `[]`, `[{"id": 0, "content": "ab"}]`,
			1): `the id of "ab" is 0, but its place in the vocabulary is 2`,
		strings.Replace(fmt.Sprintf(small, ""), `[]`, `[{"id": 3, "content": "x", "new": 1}]`,
			1): `unknown field "new"`,
		strings.Replace(fmt.Sprintf(small, ""), `[]`, `[{"id": 3, "content": "x"}, {"id": 4, "content": "x"}]`,
			1): `"x" and "x" match the same text`,
	} {
		_, err := parseAlone([]byte(text))
		require.ErrorContains(t, err, want, "%.120s", text)
		require.ErrorContains(t, err, "tokenizer.json: ")
	}
}

// parseAlone reads a tokenizer.json that has no files beside it.
func parseAlone(data []byte) (*Tokenizer, error) { return parseWith(data, &settings{}) }

func TestLoad(t *testing.T) {
	_, err := LoadFS(fstest.MapFS{})
	require.ErrorIs(t, err, os.ErrNotExist)
	_, err = LoadFS(fstest.MapFS{File: {Data: fmt.Appendf(nil, small, "")}})
	require.NoError(t, err)
	_, err = Load(filepath.Join("testdata", "nope"))
	require.ErrorContains(t, err, "tokenizer.json")
	_, err = LoadFS(fstest.MapFS{File: {Data: make([]byte, MaxFile+1)}})
	require.ErrorContains(t, err, "tokenizer.json: has more than 134217728 bytes")
}

// seeds are components of each kind.
var seeds = []string{
	"",
	`, "normalizer": {"type": "Replace", "pattern": {"Regex": "(?i)[a-c]+|\\p{Lu}"}, "content": "b"}, "decoder": {"type": "Fuse"}`,
	`, "normalizer": {"type": "Sequence", "normalizers": [{"type": "NFKC"}, {"type": "Lowercase"}, {"type": "Prepend", "prepend": "a"}]}`,
	`, "normalizer": {"type": "Strip", "strip_left": true, "strip_right": false}, "pre_tokenizer": {"type": "Whitespace"}`,
	`, "pre_tokenizer": {"type": "ByteLevel", "add_prefix_space": true, "trim_offsets": true}, "decoder": {"type": "ByteLevel"}`,
	`, "pre_tokenizer": {"type": "Split", "pattern": {"Regex": "\\s+(?!\\S)|(?:a|b){1,2}"}, "behavior": "MergedWithNext", "invert": true}`,
	`, "pre_tokenizer": {"type": "Metaspace", "replacement": "▁", "prepend_scheme": "first"}, "decoder": {"type": "Metaspace", "replacement": "▁"}`,
	`, "pre_tokenizer": {"type": "Sequence", "pretokenizers": [{"type": "Digits", "individual_digits": true}, {"type": "Punctuation"}]}`,
	`, "post_processor": {"type": "TemplateProcessing", "single": [{"SpecialToken": {"id": "a", "type_id": 0}}, {"Sequence": {"id": "A", "type_id": 0}}], "pair": [], "special_tokens": {"a": {"id": "a", "ids": [0], "tokens": ["a"]}}}`,
	`, "post_processor": {"type": "BertProcessing", "sep": ["a", 0], "cls": ["b", 1]}`,
	`, "decoder": {"type": "Sequence", "decoders": [{"type": "Replace", "pattern": {"String": "a"}, "content": " "}, {"type": "ByteFallback"}, {"type": "Fuse"}, {"type": "Strip", "content": " ", "start": 1, "stop": 1}]}`,
}

// FuzzTokenizerJSON: what is read allocates in proportion; what is accepted
// encodes and decodes, and is the same when it is written and read again.
func FuzzTokenizerJSON(f *testing.F) {
	for _, more := range seeds {
		data := fmt.Appendf(nil, small, more)
		f.Add(data)
		f.Add(data[:len(data)*2/3])
	}
	texts := []string{"", "ab a b", "The  quick\nbrown <s>", "日本\xff\u0301", strings.Repeat("ab", 100)}
	f.Fuzz(func(t *testing.T, data []byte) {
		before := allocated()
		tok, err := parseAlone(data)
		require.Less(t, allocated()-before, uint64(8<<20+4096*len(data)))
		if err != nil {
			return
		}
		written, err := json.Marshal(tok)
		require.NoError(t, err)
		again, err := parseAlone(written)
		require.NoError(t, err)
		for _, text := range texts {
			ids := encoded(tok, text, true)
			require.Equal(t, ids, encoded(again, text, true))
			for _, id := range ids {
				require.Less(t, int64(id), int64(1<<31-1))
			}
			decoded := tok.Decode(ids, false)
			require.True(t, utf8.ValidString(decoded))
			require.Equal(t, decoded, streamed(again, ids, false))
		}
	})
}

// allocated is how many bytes have been allocated so far.
func allocated() uint64 {
	var m runtime.MemStats
	runtime.ReadMemStats(&m)
	return m.TotalAlloc
}
