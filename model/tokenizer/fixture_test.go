package tokenizer

import (
	"context"
	"encoding/json"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
)

// The fixtures are Hugging Face's: scripts/fixtures/tokenizers.py.

func readJSON(t testing.TB, name string, v any) {
	t.Helper()
	data, err := os.ReadFile(filepath.Join("testdata", name))
	require.NoError(t, err)
	require.NoError(t, json.Unmarshal(data, v))
}

type fixture struct {
	Name      string
	Tokenizer json.RawMessage
	Cases     []struct {
		Text         string
		IDs, Special []int32
		Decoded      *[2]string
	}
	Decodes []struct {
		IDs     []int32
		Decoded [2]string
	}
}

func readFixtures(t testing.TB) []fixture {
	t.Helper()
	var all []fixture
	readJSON(t, "tokenizers.json", &all)
	require.NotEmpty(t, all)
	return all
}

// TestFixtures: small tokenizers of every kind encode and decode as Hugging
// Face's library does, at once and as a stream.
func TestFixtures(t *testing.T) {
	for _, f := range readFixtures(t) {
		t.Run(f.Name, func(t *testing.T) {
			tok, err := parseAlone(f.Tokenizer)
			require.NoError(t, err)
			for _, c := range f.Cases {
				if c.Special == nil {
					c.Special = c.IDs
				}
				checkIDs(t, c.IDs, encoded(tok, c.Text, false), c.Text)
				checkIDs(t, c.Special, encoded(tok, c.Text, true), c.Text)
				if c.Decoded != nil {
					checkDecoded(t, tok, c.IDs, *c.Decoded)
				}
			}
			for _, d := range f.Decodes {
				checkDecoded(t, tok, d.IDs, d.Decoded)
			}
		})
	}
}

// freely is the work of a text for which it does not count.
func freely() *work { return newWork(context.Background(), 1<<30) }

// encoded are a text's ids.
func encoded(t *Tokenizer, text string, special bool) []int32 {
	ids, err := t.Encode(context.Background(), text, special)
	if err != nil {
		panic(err)
	}
	return ids
}

func checkIDs(t *testing.T, want, got []int32, text string) {
	t.Helper()
	require.Equal(t, append([]int32{}, want...), append([]int32{}, got...), "%q", text)
}

func checkDecoded(t *testing.T, tok *Tokenizer, ids []int32, want [2]string) {
	t.Helper()
	for i, skip := range []bool{false, true} {
		require.Equal(t, want[i], tok.Decode(ids, skip), "%v", ids)
		require.Equal(t, want[i], streamed(tok, ids, skip), "%v", ids)
	}
}

// streamed decodes ids one at a time.
func streamed(t *Tokenizer, ids []int32, skipSpecial bool) string {
	s := t.NewStream(skipSpecial)
	var text strings.Builder
	for _, id := range ids {
		text.WriteString(s.Push(id))
	}
	return text.String() + s.Flush()
}

// TestPatterns: regular expressions match what Oniguruma matches.
func TestPatterns(t *testing.T) {
	var f struct {
		Texts    []string
		Patterns []struct {
			Pattern string
			Err     *string
			Matches [][][2]int // in code points
		}
	}
	readJSON(t, "patterns.json", &f)
	for _, c := range f.Patterns {
		p, err := compilePattern(c.Pattern)
		if c.Err != nil {
			require.Error(t, err, c.Pattern)
			continue
		}
		require.NoError(t, err, c.Pattern)
		for i, text := range f.Texts {
			require.Equal(t, c.Matches[i], matches(p, text), "%s in %q", c.Pattern, text)
		}
	}
}

// matches lists a finder's matches that are not empty, in code points.
func matches(f finder, text string) [][2]int {
	out := [][2]int{}
	f.each(freely(), text, func(begin, end int) {
		if begin < end {
			n := len([]rune(text[:begin]))
			out = append(out, [2]int{n, n + len([]rune(text[begin:end]))})
		}
	})
	return out
}

// TestCategories: every code point has the category that Oniguruma gives it, and
// is in \w where it is there.
func TestCategories(t *testing.T) {
	data, err := os.ReadFile(filepath.Join("testdata", "categories.txt"))
	require.NoError(t, err)
	want := map[string]spans{}
	next := rune(0)
	for line := range strings.Lines(string(data)) {
		end, name, _ := strings.Cut(strings.TrimSpace(line), " ")
		last, err := strconv.ParseInt(end, 16, 32)
		require.NoError(t, err)
		run := spans{{next, rune(last)}}.minus(surrogates)
		next = rune(last) + 1
		name, word := strings.CutSuffix(name, "w")
		want[name] = append(want[name], run...)
		want[name[:1]] = append(want[name[:1]], run...)
		if word {
			want["word"] = append(want["word"], run...)
		}
	}
	for name, points := range want {
		got, ok := property(name)
		require.True(t, ok, name)
		require.Equal(t, union(points), union(got).minus(surrogates), name)
	}
}

// surrogates are no characters.
var surrogates = spans{{0xD800, 0xDFFF}}

// TestClasses: every code point is in the classes that the components make.
func TestClasses(t *testing.T) {
	var f struct {
		StripAccents, Punctuation, Digits, Whitespace, WhitespaceSplit [][2]rune
		Lowercase                                                      map[string]string
	}
	readJSON(t, "classes.json", &f)
	accents := stripAccents()
	for _, c := range []struct {
		name string
		want [][2]rune
		is   func(rune) bool
	}{
		{"StripAccents", f.StripAccents, func(r rune) bool { return accents(freely(), string(r)) == "" }},
		{"Punctuation", f.Punctuation, punctuation()},
		{"Digits", f.Digits, digits()},
		{"Whitespace", f.Whitespace, newRuneSet(words()).has},
		{"WhitespaceSplit", f.WhitespaceSplit, newRuneSet(spaces()).has},
	} {
		require.Equal(t, c.want, runsOf(c.is), c.name)
	}
	for r := rune(0); r <= maxRune; r++ {
		want, ok := f.Lowercase[string(r)]
		if !ok {
			want = string(r)
		}
		require.Equal(t, want, lowercase(freely(), string(r)))
	}
}

// runsOf lists the code points of a class as runs.
func runsOf(is func(rune) bool) [][2]rune {
	var out [][2]rune
	for r := rune(0); r <= maxRune; r++ {
		switch {
		case surrogates.has(r) || !is(r):
		case len(out) > 0 && out[len(out)-1][1] == r-1:
			out[len(out)-1][1] = r
		default:
			out = append(out, [2]rune{r, r})
		}
	}
	return out
}

func TestForms(t *testing.T) {
	var cases []struct{ Text, NFC, NFD, NFKC, NFKD string }
	readJSON(t, "forms.json", &cases)
	for _, c := range cases {
		for name, want := range map[string]string{"NFC": c.NFC, "NFD": c.NFD, "NFKC": c.NFKC, "NFKD": c.NFKD} {
			n, err := normalizers[name](json.RawMessage(`{"type":"` + name + `"}`))
			require.NoError(t, err)
			require.Equal(t, want, n(freely(), c.Text), "%s of %+q", name, c.Text)
		}
	}
}
