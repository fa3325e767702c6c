package tokenizer

import (
	"fmt"
	"slices"
	"sort"
	"strings"
	"unicode"
	"unicode/utf8"
)

// AddedToken is a token that is found in the text before anything else is done
// with it. Its fields are tokenizer.json's.
type AddedToken struct {
	ID      int32  `json:"id"`
	Content string `json:"content"`
	// SingleWord matches only where no word touches the token.
	SingleWord bool `json:"single_word"`
	// LStrip and RStrip take the whitespace before and behind it, too.
	LStrip bool `json:"lstrip"`
	RStrip bool `json:"rstrip"`
	// Normalized matches the normalised content in the normalised text.
	Normalized bool `json:"normalized"`
	// Special tokens are left out of decoded text where that is asked for.
	Special bool `json:"special"`
}

// addedSet finds added tokens: at each place the longest, from left to right.
type addedSet struct {
	entries []addedEntry // in the order of their patterns
	begins  [257]int     // begins[b]: the first entry whose pattern begins with b or more
	words   *runeSet
	// plain says that special tokens are text like any other, as
	// split_special_tokens asks for it.
	plain bool
}

type addedEntry struct {
	pattern string
	token   *AddedToken
}

// newAddedSet sorts the entries. No two may have the same pattern, none an empty
// one.
func newAddedSet(entries []addedEntry, words *runeSet) (*addedSet, error) {
	a := &addedSet{entries: entries, words: words}
	slices.SortFunc(entries, func(x, y addedEntry) int { return strings.Compare(x.pattern, y.pattern) })
	for i, e := range entries {
		if e.pattern == "" {
			return nil, fmt.Errorf("the added token %q is normalised to nothing", e.token.Content)
		}
		if i > 0 && e.pattern == entries[i-1].pattern {
			return nil, fmt.Errorf("the added tokens %q and %q match the same text", entries[i-1].token.Content,
				e.token.Content)
		}
	}
	for b := range a.begins {
		a.begins[b] = sort.Search(len(entries), func(i int) bool { return int(entries[i].pattern[0]) >= b })
	}
	return a, nil
}

// Work of looking for the next byte of an added token, and of a space beside one.
const (
	lookup    = 16
	spaceWork = 8
)

// longest returns the longest token that begins text, which is not empty, and
// its length there. It narrows down the entries that begin as text does.
func (a *addedSet) longest(w *work, text string) (*AddedToken, int) {
	var found *AddedToken
	length := 0
	lo, hi := a.begins[text[0]], a.begins[int(text[0])+1]
	for n := 1; lo < hi; n++ {
		w.spend(lookup)
		if len(a.entries[lo].pattern) == n {
			found, length = a.entries[lo].token, n
			lo++
		}
		if n == len(text) {
			break
		}
		lo, hi = narrow(a.entries, lo, hi, n, text[n])
	}
	return found, length
}

// narrow returns those of the entries lo..hi, which agree in n bytes and are
// longer, whose next byte is b.
func narrow(entries []addedEntry, lo, hi, n int, b byte) (int, int) {
	from := func(least int) int {
		return lo + sort.Search(hi-lo, func(i int) bool { return int(entries[lo+i].pattern[n]) >= least })
	}
	return from(int(b)), from(int(b) + 1)
}

// split yields the text's parts in order: each either an added token, or text
// without one. An empty text has no parts.
func (a *addedSet) split(w *work, text string, yield func(part string, token *AddedToken)) {
	if len(a.entries) == 0 {
		if text != "" {
			yield(text, nil)
		}
		return
	}
	done := 0 // everything before is yielded
	for at := 0; at < len(text); {
		w.spend(1)
		token, length := a.longest(w, text[at:])
		if token == nil {
			at++
			continue
		}
		begin, end := at, at+length
		at = end
		if a.plain && token.Special || token.SingleWord && a.touchesWord(text[:begin], text[end:]) {
			continue
		}
		if token.LStrip {
			w.spend(spaceWork * max(begin-done, 0))
			begin = done + len(trimSpaceRight(text[done:max(begin, done)]))
		}
		if token.RStrip {
			end = len(text) - len(trimSpaceLeft(text[end:]))
		}
		w.spend(lookup + spaceWork*(end-at))
		if done < begin {
			yield(text[done:begin], nil)
		}
		yield(text[begin:end], token)
		done = end
	}
	if done < len(text) {
		yield(text[done:], nil)
	}
}

// touchesWord reports whether a word ends before or begins behind a token.
func (a *addedSet) touchesWord(before, behind string) bool {
	last, lastSize := utf8.DecodeLastRuneInString(before)
	first, firstSize := utf8.DecodeRuneInString(behind)
	return lastSize > 0 && a.words.has(last) || firstSize > 0 && a.words.has(first)
}

func trimSpaceLeft(s string) string  { return strings.TrimLeftFunc(s, unicode.IsSpace) }
func trimSpaceRight(s string) string { return strings.TrimRightFunc(s, unicode.IsSpace) }
