package main

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/tandem-moe/tandem/model/tokenizer"
)

// tinyTokenizer knows "a", "b", "ab", a space and <s>, which its post-processor
// puts in front.
const tinyTokenizer = `{"added_tokens": [{"id": 4, "content": "<s>", "special": true}],
"post_processor": {"type": "TemplateProcessing", "single": [{"SpecialToken": {"id": "<s>", "type_id": 0}}, {"Sequence": {"id": "A", "type_id": 0}}],
	"pair": [], "special_tokens": {"<s>": {"id": "<s>", "ids": [4], "tokens": ["<s>"]}}},
"decoder": {"type": "Fuse"},
"model": {"type": "BPE", "vocab": {"a": 0, "b": 1, "ab": 2, " ": 3}, "merges": ["a b"]}}`

func TestTokenize(t *testing.T) {
	dir := t.TempDir()
	require.NoError(t, os.WriteFile(filepath.Join(dir, tokenizer.File), []byte(tinyTokenizer), 0o600))
	tok, err := loadTokenizer(dir)
	require.NoError(t, err)
	for _, c := range []struct {
		cmd           TokenizeCmd
		in, out, fail string
	}{
		{TokenizeCmd{}, "abba <s>", "2 1 0 3 4\n", ""},
		{TokenizeCmd{}, "", "\n", ""},
		{TokenizeCmd{Special: true}, "ab", "4 2\n", ""},
		{TokenizeCmd{JSON: true}, "\"ab\"\n\"\"\n\"<s>b\"", "[2]\n[]\n[4,1]\n", ""},
		{TokenizeCmd{JSON: true, Special: true}, `"b"` + "\n", "[4,1]\n", ""},
		{TokenizeCmd{JSON: true}, "\"a\"\nab\n", "[0]\n", "line 2: want a JSON string"},
		{TokenizeCmd{JSON: true}, "null\n", "", "line 1: want a JSON string, got null"},
		{TokenizeCmd{JSON: true}, "\"a\"\n\n", "[0]\n", "line 2: want a JSON string"},
		{TokenizeCmd{Decode: true}, "2 1 0\n3 4\n", "abba <s>", ""},
		{TokenizeCmd{Decode: true}, "0\n1 x", "", `line 2: "x" is no id`},
		{TokenizeCmd{Decode: true}, "5", "", "the tokenizer has no token 5; its ids are 0 to 4"},
		{TokenizeCmd{Decode: true}, "-1", "", "no token -1"},
		{TokenizeCmd{JSON: true, Decode: true}, "[2,3]\n[]\n", "\"ab \"\n\"\"\n", ""},
		{TokenizeCmd{JSON: true, Decode: true}, "[0]\n[1.5]", "\"a\"\n", "line 2: want a JSON array of ids"},
		{TokenizeCmd{JSON: true, Decode: true}, "[null]", "", "line 1: id 0 is null"},
		{TokenizeCmd{JSON: true, Decode: true}, "[0, 9]", "", "line 1: id 1: the tokenizer has no token 9"},
	} {
		var out strings.Builder
		err := c.cmd.convert(tok, strings.NewReader(c.in), &out)
		require.Equal(t, c.out, out.String(), "%+v", c)
		if c.fail == "" {
			require.NoError(t, err, "%+v", c)
			continue
		}
		require.ErrorContains(t, err, c.fail)
	}
}

// TestTokenizeEmbedded: without a folder the embedded model's tokenizer is used.
func TestTokenizeEmbedded(t *testing.T) {
	tok, err := loadTokenizer("")
	require.NoError(t, err)
	_, err = loadTokenizer("no such folder")
	require.ErrorContains(t, err, "no such folder")
	const text = "func main() {\n\tfmt.Println(\"hi\")\n}\n"
	ids, err := tok.Encode(t.Context(), text, true)
	require.NoError(t, err)
	require.Equal(t, text, tok.Decode(ids, false))
}
