package tokenizer

import (
	"strings"
	"unicode"

	"golang.org/x/text/unicode/norm"
)

// normalizer changes a text before it is split.
type normalizer func(string) string

func sequenceNormalizer(parts []normalizer) normalizer {
	return func(s string) string {
		for _, n := range parts {
			s = n(s)
		}
		return s
	}
}

func prependNormalizer(prefix string) normalizer {
	return func(s string) string {
		if s == "" {
			return s
		}
		return prefix + s
	}
}

func replaceNormalizer(f finder, content string) normalizer {
	return func(s string) string { return replace(s, f, content) }
}

func stripNormalizer(left, right bool) normalizer {
	return func(s string) string {
		if left {
			s = trimSpaceLeft(s)
		}
		if right {
			s = trimSpaceRight(s)
		}
		return s
	}
}

// stripAccents removes combining marks.
func stripAccents() normalizer {
	marks := newRuneSet(category("M"))
	return func(s string) string {
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
func lowercase(s string) string {
	s = strings.ReplaceAll(s, "İ", "i̇")
	return strings.Map(unicode.ToLower, s)
}

// form returns a Unicode normal form.
func form(f norm.Form) normalizer {
	return func(s string) string {
		if f.IsNormalString(s) {
			return s
		}
		return f.String(s)
	}
}
