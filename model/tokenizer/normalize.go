package tokenizer

import (
	"cmp"
	"slices"
	"strings"
	"unicode"
	"unicode/utf8"

	"golang.org/x/text/unicode/norm"
)

// normalizer changes a text before it is split.
type normalizer func(w *work, s string) string

func sequenceNormalizer(parts []normalizer) normalizer {
	return func(w *work, s string) string {
		for _, n := range parts {
			s = n(w, s)
		}
		return s
	}
}

func prependNormalizer(prefix string) normalizer {
	return func(w *work, s string) string {
		if s == "" {
			return s
		}
		w.grow(len(prefix) + len(s))
		return prefix + s
	}
}

func replaceNormalizer(f finder, content string) normalizer {
	return func(w *work, s string) string { return replace(w, s, f, content) }
}

func stripNormalizer(left, right bool) normalizer {
	return func(w *work, s string) string {
		w.spend(len(s))
		if left {
			s = trimSpaceLeft(s)
		}
		if right {
			s = trimSpaceRight(s)
		}
		return s
	}
}

// runeWork is what it takes to look a character up, for each of its bytes.
const runeWork = 4

// stripAccents removes combining marks.
func stripAccents() normalizer {
	marks := newRuneSet(union(category("M").minus(laterCombining), spans{{0x1CF2, 0x1CF3}}))
	return func(w *work, s string) string {
		w.grow(runeWork * len(s))
		return strings.Map(func(r rune) rune {
			if marks.has(r) {
				return -1
			}
			return r
		}, s)
	}
}

// lowercase maps each character by itself, as Rust does: a sigma at a word's end
// is no exception, and a capital I with a dot becomes two characters.
func lowercase(w *work, s string) string {
	w.grow(2 * len(s))
	w.spend(runeWork * len(s))
	s = strings.ReplaceAll(s, "İ", "i̇")
	return strings.Map(func(r rune) rune {
		if l, ok := lower16[r]; ok {
			return l
		}
		switch {
		case r >= 0x10D50 && r <= 0x10D65:
			return r + 0x20
		case r >= 0x16EA0 && r <= 0x16EB8:
			return r + 0x1B
		}
		return unicode.ToLower(r)
	}, s)
}

// lower16 are the capitals of Unicode 16 and 17 that package unicode's version 15
// lacks, but for two runs of them.
var lower16 = map[rune]rune{
	0x1C89: 0x1C8A, 0xA7CB: 0x264, 0xA7CC: 0xA7CD, 0xA7CE: 0xA7CF, 0xA7D2: 0xA7D3, 0xA7D4: 0xA7D5, 0xA7DA: 0xA7DB,
	0xA7DC: 0x19B,
}

// form returns a Unicode normal form, with the characters that Hugging Face's
// normaliser does not know left as they are: nothing moves over them or joins
// them.
func form(f norm.Form) normalizer {
	later := newRuneSet(laterMarks)
	return func(w *work, s string) string {
		w.spend(runeWork * len(s))
		if f.IsNormalString(s) && !manyMarks(s) { // where nothing moves, nothing is in the way
			return s
		}
		var out strings.Builder
		for s != "" {
			n := strings.IndexFunc(s, later.has)
			if n < 0 {
				n = len(s)
			}
			out.WriteString(formOf(w, f, s[:n]))
			size := 0
			if n < len(s) {
				_, size = utf8.DecodeRuneInString(s[n:])
			}
			out.WriteString(s[n : n+size])
			s = s[n+size:]
		}
		return out.String()
	}
}

// widestForm is how many times as many bytes a normal form may have, at most.
const widestForm = 11

func formOf(w *work, f norm.Form, s string) string {
	w.spend(runeWork * len(s))
	if manyMarks(s) {
		w.grow(widestForm * len(s))
		return formSlowly(w, f, s)
	}
	out := f.String(s)
	w.grow(len(out))
	return out
}

// fewMarks is how many marks on one character package norm leaves as they are: it
// puts a joiner behind the 30th, and some are two.
const fewMarks = 12

// manyMarks reports whether package norm could put a joiner between the marks.
func manyMarks(s string) bool {
	n := 0
	for i := 0; i < len(s); {
		if s[i] < utf8.RuneSelf {
			n = 0
			i++
			continue
		}
		p := norm.NFKD.PropertiesString(s[i:])
		i += p.Size()
		if n++; p.CCC() == 0 && len(p.Decomposition()) == 0 {
			n = 0
		}
		if n > fewMarks {
			return true
		}
	}
	return false
}

// formSlowly is a normal form as the standard defines it: decompose, put marks in
// order, compose.
func formSlowly(w *work, f norm.Form, s string) string {
	const slow = 256 // what a character takes here
	decomposing, composing := norm.NFD, f == norm.NFC || f == norm.NFKC
	if f == norm.NFKC || f == norm.NFKD {
		decomposing = norm.NFKD
	}
	var runes []rune
	for _, r := range s {
		w.spend(slow)
		runes = append(runes, []rune(decomposing.String(string(r)))...)
	}
	w.spend(slow * len(runes))
	orderMarks(runes)
	if composing {
		w.spend(slow * len(runes))
		runes = composed(runes)
	}
	return string(runes)
}

// class is a character's canonical combining class: 0 begins a new one.
func class(r rune) uint8 { return norm.NFD.PropertiesString(string(r)).CCC() }

// orderMarks sorts each run of marks by class.
func orderMarks(runes []rune) {
	for begin := 0; begin < len(runes); {
		end := begin
		for end < len(runes) && class(runes[end]) != 0 {
			end++
		}
		slices.SortStableFunc(runes[begin:end], func(a, b rune) int { return cmp.Compare(class(a), class(b)) })
		begin = end + 1
	}
}

// composed joins each mark with the last character that begins one, unless
// another mark of its class or a higher one stands between.
func composed(runes []rune) []rune {
	out := runes[:0]
	starter, last := -1, uint8(0) // last: the class of what stands between
	for _, r := range runes {
		c := class(r)
		if starter >= 0 && (last < c || last == 0 && starter == len(out)-1) {
			if joined := []rune(norm.NFC.String(string([]rune{out[starter], r}))); len(joined) == 1 {
				out[starter] = joined[0]
				continue
			}
		}
		if c == 0 {
			starter = len(out)
		}
		last = c
		out = append(out, r)
	}
	return out
}
