package tokenizer

import (
	"math/rand/v2"
	"slices"
	"strings"
	"testing"
	"unicode/utf8"

	"github.com/stretchr/testify/require"
	"golang.org/x/text/unicode/norm"
)

// Here are the slow and obvious versions of what is fast elsewhere, and both on
// random input.

// randomText draws characters that patterns tell apart.
func randomText(r *rand.Rand, n int) string {
	alphabet := []rune("aabbcSſkKstTmlL'' 12½\n\r\t\u00a0é_.,-!日ǅʰ\u0301٣/")
	out := make([]rune, r.IntN(n))
	for i := range out {
		out[i] = alphabet[r.IntN(len(alphabet))]
	}
	return string(out)
}

// slowMatch is where e and what follows it end, or -1: backtracking as in a
// textbook.
func slowMatch(e expr, s string, at int, then func(int) int) int {
	switch e := e.(type) {
	case oneOf:
		r, size := utf8.DecodeRuneInString(s[at:])
		if size == 0 || !e.set.has(r) {
			return -1
		}
		return then(at + size)
	case sequence:
		if len(e.parts) == 0 {
			return then(at)
		}
		return slowMatch(e.parts[0], s, at, func(at int) int { return slowMatch(sequence{e.parts[1:]}, s, at, then) })
	case choice:
		for _, o := range e.options {
			if end := slowMatch(o, s, at, then); end >= 0 {
				return end
			}
		}
		return -1
	case repeat:
		return slowRepeat(e, s, at, then)
	case atomic:
		if end := slowMatch(e.sub, s, at, func(at int) int { return at }); end >= 0 {
			return then(end)
		}
		return -1
	case look:
		if (slowMatch(e.sub, s, at, func(at int) int { return at }) >= 0) != e.negate {
			return then(at)
		}
		return -1
	}
	panic("not in the patterns that are compared")
}

func slowRepeat(e repeat, s string, at int, then func(int) int) int {
	again := func() int {
		if e.max == 0 {
			return -1
		}
		rest := repeat{e.sub, max(e.min-1, 0), e.max - 1, e.mode}
		return slowMatch(e.sub, s, at, func(at int) int { return slowRepeat(rest, s, at, then) })
	}
	if e.min > 0 {
		return again()
	}
	first, second := again, func() int { return then(at) }
	if e.mode == lazy {
		first, second = second, first
	}
	if end := first(); end >= 0 {
		return end
	}
	return second()
}

func TestPatternIsSlowPattern(t *testing.T) {
	r := rand.New(rand.NewPCG(1, 2))
	sources := []string{`(?:a|ab)(?:c|bcd)*`, `a*?b`, `(?:a+b?)+c`, `(?:ab|a){2,3}b?`, `(?>a+)b|a`, `[ab]{0,2}b`}
	for _, p := range knownPatterns {
		sources = append(sources, p)
	}
	for _, source := range sources {
		e, err := parsePattern(source)
		require.NoError(t, err)
		p, err := compilePattern(source)
		require.NoError(t, err)
		for range 300 {
			text := randomText(r, 30)
			m := matcher{pattern: p, text: text, work: freely()}
			for at := range text {
				want := slowMatch(e, text, at, func(at int) int { return at })
				require.Equal(t, want, m.match(p.start, at), "%s at %d of %q", source, at, text)
				m.steps = r.IntN(2) * freeSteps * 2048 // with failures remembered, or without
			}
		}
	}
}

// TestPatternTakesNoExponentialTime: backtracking alone would not end.
func TestPatternTakesNoExponentialTime(t *testing.T) {
	for _, source := range []string{`(?:a+b?)+c`, `(?:a|aa)+$x`, `(?:a*b?){1,20}c`, `(?:(?:a+)+)+b`} {
		p, err := compilePattern(source)
		require.NoError(t, err)
		require.Empty(t, matches(p, strings.Repeat("a", 400)))
	}
	p, err := compilePattern(`(?:ab)+`)
	require.NoError(t, err)
	require.Len(t, matches(p, strings.Repeat("ab", 1<<20)), 2) // cut where the stack would overflow
}

// slowMerge merges the pair of the lowest rank, the first one of it, until there
// is none.
func (b *bpe) slowMerge(ids []int32) []int32 {
	for {
		best, at := merge{rank: 1 << 30}, -1
		for i := 0; i+1 < len(ids); i++ {
			if m, ok := b.merges[pair{ids[i], ids[i+1]}]; ok && m.rank < best.rank {
				best, at = m, i
			}
		}
		if at < 0 {
			return ids
		}
		ids = slices.Delete(ids, at+1, at+2)
		ids[at] = best.id
	}
}

func TestMergeIsSlowMerge(t *testing.T) {
	r := rand.New(rand.NewPCG(3, 4))
	for range 2000 {
		b := &bpe{merges: map[pair]merge{}}
		next := int32(3)
		for rank := range int32(r.IntN(20)) {
			p := pair{r.Int32N(next), r.Int32N(next)}
			if _, ok := b.merges[p]; !ok {
				b.merges[p] = merge{rank, next}
				next++
			}
		}
		ids := make([]int32, r.IntN(40))
		for i := range ids {
			ids[i] = r.Int32N(3)
		}
		want := b.slowMerge(slices.Clone(ids))
		require.Equal(t, want, b.mergeAll(freely(), slices.Clone(ids)), "%v of %v", ids, b.merges)
	}
}

func TestAddedIsLongestPrefix(t *testing.T) {
	r := rand.New(rand.NewPCG(5, 6))
	for range 500 {
		tokens := map[string]*AddedToken{}
		var entries []addedEntry
		for range r.IntN(12) {
			text := strings.Repeat("ab", 3)[r.IntN(3):][:1+r.IntN(3)] + strings.Repeat("a", r.IntN(3))
			if tokens[text] == nil {
				tokens[text] = &AddedToken{Content: text}
				entries = append(entries, addedEntry{text, tokens[text]})
			}
		}
		set, err := newAddedSet(entries, nil)
		require.NoError(t, err)
		text := strings.ReplaceAll(randomText(r, 20)+"ab", "c", "aa") + "b"
		var want *AddedToken
		length := 0
		for n := range len(text) + 1 {
			if tokens[text[:n]] != nil {
				want, length = tokens[text[:n]], n
			}
		}
		got, n := set.longest(freely(), text)
		require.Same(t, want, got)
		require.Equal(t, length, n)
	}
}

func TestFormIsSlowForm(t *testing.T) {
	r := rand.New(rand.NewPCG(7, 8))
	alphabet := []rune("ae\u0301\u0316\u0327\u0344\u00e9\u1e69\ufb01각\u1100\u1161\u11a8\u0b47\u0b3e\u0958\u212b\u01c4日")
	for range 3000 {
		var text []rune
		for range r.IntN(10) {
			text = append(text, alphabet[r.IntN(len(alphabet))])
		}
		for _, f := range []norm.Form{norm.NFC, norm.NFD, norm.NFKC, norm.NFKD} {
			require.Equal(t, f.String(string(text)), formSlowly(freely(), f, string(text)), "%+q", string(text))
		}
	}
}
