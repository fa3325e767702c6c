package tokenizer

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"golang.org/x/text/unicode/norm"
)

// hostile are components that make much work of little text.
var hostile = map[string]struct{ fields, text string }{
	"a run, and what never follows": {split(`a+b`), "a"},
	"runs of runs":                  {split(`(?:a+)+b`), "a"},
	"a run behind a character":      {split(`[ab]a+c`), "a"},
	"a lookahead to the end":        {split(`a(?=a*b)`), "a"},
	"a lookahead that holds":        {split(`b(?=a*$)|a(?=a+)`), "a"},
	"an atomic run":                 {split(`(?>a+)b`), "a"},
	"lazy runs":                     {split(`a+?a*?b`), "a"},
	"counted runs":                  {split(`a{1,1000}a{1,1000}b`), "a"},
	"Replace with a pattern":        {`"normalizer": {"type": "Replace", "pattern": {"Regex": "a+b"}, "content": "c"}`, "a"},
	"Replace with much": {`"normalizer": {"type": "Replace", "pattern": {"String": "a"}, "content": "` +
		strings.Repeat("a", 1000) + `"}`, "a"},
	"Replace of what Replace made": {`"normalizer": {"type": "Sequence", "normalizers": [` +
		join(20, `{"type": "Replace", "pattern": {"String": "a"}, "content": "aa"}`) + `]}`, "a"},
	"bytes of bytes of bytes": {`"normalizer": {"type": "Sequence", "normalizers": [` +
		join(30, `{"type": "ByteLevel"}`) + `]}`, " "},
	"pieces of bytes of bytes": {`"pre_tokenizer": {"type": "Sequence", "pretokenizers": [` +
		join(30, `{"type": "ByteLevel", "add_prefix_space": false, "trim_offsets": true, "use_regex": false}`) + `]}`, " "},
	"marks on one character": {`"normalizer": {"type": "NFKC"}`, "\u0301"},
	"added tokens that nearly match": {`"added_tokens": [{"id": 3, "content": "` + strings.Repeat("a", maxToken-1) +
		`x"}]`, "a"},
	"an added token that takes spaces": {`"added_tokens": [{"id": 3, "content": " ", "rstrip": true, "lstrip": true}]`, " "},
	"Prepend before every added token": {
		`"added_tokens": [{"id": 3, "content": "x"}], "normalizer": {"type": "Prepend", "prepend": "` +
			strings.Repeat("a", 1000) + `"}`, "xa"},
	"merges of one long word":            {`"pre_tokenizer": null`, "ab"},
	"spaces that a pattern looks beyond": {split(`\\s+(?!\\S)|\\s*[\\r\\n]+|\\s+`), " "},
}

func split(pattern string) string {
	return `"pre_tokenizer": {"type": "Split", "pattern": {"Regex": "` + pattern + `"}, "behavior": "Isolated", "invert": false}`
}

func join(n int, s string) string { return strings.TrimSuffix(strings.Repeat(s+",", n), ",") }

// tokenizerWith is small with other fields.
func tokenizerWith(t testing.TB, fields string) *Tokenizer {
	t.Helper()
	text := fmt.Sprintf(small, ", "+fields)
	if strings.Contains(fields, "added_tokens") {
		text = strings.Replace(text, `"added_tokens": [],`, "", 1)
	}
	tok, err := parseAlone([]byte(text))
	require.NoError(t, err)
	return tok
}

// TestHostileTextEnds: whatever a tokenizer's rules make of a text, it ends, in
// time that is in proportion to the text.
func TestHostileTextEnds(t *testing.T) {
	for name, c := range hostile {
		t.Run(name, func(t *testing.T) {
			tok := tokenizerWith(t, c.fields)
			_, err := tok.Encode(t.Context(), strings.Repeat(c.text, 30_000/len(c.text)), false)
			if err != nil {
				require.ErrorIs(t, err, ErrTooMuchWork)
			}
		})
	}
}

// TestEncodingEndsWithItsContext: nobody encodes for a client that has left.
func TestEncodingEndsWithItsContext(t *testing.T) {
	gone := errors.New("the client left")
	tok := byName(t, "gpt2")
	for _, text := range []string{strings.Repeat(" ", 8_000_000), strings.Repeat("word ", 1_600_000)} {
		ctx, cancel := context.WithCancelCause(t.Context())
		time.AfterFunc(10*time.Millisecond, func() { cancel(gone) })
		_, err := tok.Encode(ctx, text, false)
		require.ErrorIs(t, err, gone)
		_, err = tok.Encode(ctx, "a", false)
		require.ErrorIs(t, err, gone, "a context that has ended")
	}
}

// TestLeastTokens: no text has fewer tokens than is said of it.
func TestLeastTokens(t *testing.T) {
	r := rand.New(rand.NewPCG(11, 12))
	bounded := 0
	for _, f := range readFixtures(t) {
		tok, err := parseAlone(f.Tokenizer)
		require.NoError(t, err)
		check := func(text string) {
			require.LessOrEqual(t, tok.LeastTokens(text), len(encoded(tok, text, false)), "%s: %q", f.Name, text)
		}
		for _, c := range f.Cases {
			check(c.Text)
		}
		for range 200 {
			text := randomText(r, 30)
			check(text)
			check(strings.Repeat(text, 10))
		}
		for id := range tok.tokens { // the longest tokens, over and over
			check(strings.Repeat(string(tok.TokenBytes(int32(id))), 20))
		}
		if tok.LeastTokens(strings.Repeat("a", 1000)) > 0 {
			bounded++
		}
	}
	require.Positive(t, bounded)

	require.Equal(t, 0, tokenizerWith(t, `"normalizer": null`).LeastTokens(strings.Repeat("c", 1000)),
		"what has no token vanishes")
	require.NotZero(t, byName(t, "gpt2").LeastTokens(strings.Repeat(" ", 1000)))
	require.Zero(t, byName(t, "gpt2").LeastTokens(""))
}

// TestFormsShrinkLittle: what least.go says of normal forms and cases.
func TestFormsShrinkLittle(t *testing.T) {
	for r := rune(0); r <= maxRune; r++ {
		s := string(r)
		nfd, nfkd, low := len(norm.NFD.String(s)), len(norm.NFKD.String(s)), len(lowercase(freely(), s))
		if nfd > 3*len(s) || nfkd > widestForm*len(s) || nfkd == 0 || low == 0 {
			require.Fail(t, "a form is too long or empty", "%U", r)
		}
		if r < 0x80 {
			require.Equal(t, s, norm.NFKC.String(s))
			require.Equal(t, 1, low)
		}
	}
}

// TestFileIsBounded: a file with absurdly much in it is refused before it takes
// memory.
func TestFileIsBounded(t *testing.T) {
	long := strings.Repeat("a", maxToken+1)
	ids := strings.TrimSuffix(strings.Repeat("0,", maxAround), ",")
	for text, want := range map[string]string{
		`{"added_tokens": [` + join(2*maxAdded+1, `{}`) +
			`]}`: "added_tokens: more than",
		`{"model": {"type": "BPE", "vocab": {"` + long + `": 0}, "merges": []}}`: "the token 0 has",
		strings.Replace(fmt.Sprintf(small, ""), `[]`, `[{"id": 3, "content": "`+long+`"}]`,
			1): "the token 3 has",
		fmt.Sprintf(small, `, "normalizer": {"type": "Replace", "pattern": {"String": "a"}, "content": "`+long+`"}`): "content has",
		fmt.Sprintf(small, `, "normalizer": {"type": "Prepend", "prepend": "`+long+`"}`):                             "prepend has",
		fmt.Sprintf(small,
			`, "post_processor": {"type": "TemplateProcessing", "single": [{"SpecialToken": {"id": "x", "type_id": 0}}, {"SpecialToken": {"id": "x", "type_id": 0}}], "pair": [], "special_tokens": {"x": {"id": "x", "ids": [`+
				ids+`], "tokens": []}}}`): "single adds more than",
	} {
		_, err := parseAlone([]byte(text))
		require.ErrorContains(t, err, want, "%.80s", text)
	}
	require.ErrorContains(t, new(vocabulary).UnmarshalJSON(bytes.Repeat([]byte(":"), 2*maxVocabulary+1)),
		"vocab: more than")
	require.ErrorContains(t, new(mergeList).UnmarshalJSON(bytes.Repeat([]byte(","), 4*maxMerges+1)),
		"merges: more than")
}
