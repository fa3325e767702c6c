package tokenizer

import (
	"strings"
	"unicode"
)

// The classes here are those of Oniguruma, which runs the regular expressions
// of Hugging Face's tokenizers, with Unicode 16.

// property returns a Unicode property by its name as a pattern has it: a
// category ("Lu", "Letter"), a script ("Han") or a POSIX class ("alpha"). Case,
// spaces, hyphens and underscores do not matter.
func property(name string) (spans, bool) {
	key := loose(name)
	if set, ok := classes[key]; ok {
		return set(), true
	}
	for long, short := range unicode.CategoryAliases {
		if loose(long) == key {
			return category(short), true
		}
	}
	for short := range unicode.Categories {
		if loose(short) == key && short != "LC" {
			return category(short), true
		}
	}
	for script, table := range unicode.Scripts {
		if loose(script) == key {
			return union(fromTable(table), scripts16[script]), true
		}
	}
	return nil, false
}

func loose(name string) string {
	return strings.ToLower(strings.NewReplacer(" ", "", "-", "", "_", "").Replace(name))
}

// classes are the properties that are not a category or a script.
var classes = map[string]func() spans{
	"any":        func() spans { return spans{{0, maxRune}} },
	"alpha":      alphabetic,
	"alphabetic": alphabetic,
	"digit":      func() spans { return category("Nd") },
	"space":      func() spans { return fromTable(unicode.White_Space) },
	"whitespace": func() spans { return fromTable(unicode.White_Space) },
	"word":       wordClass,
	"xdigit":     hexDigits,
}

// category returns a general category: "Lu", or "L" for all that begin so.
func category(name string) spans {
	var gained, lost spans
	for _, c := range since16 {
		if strings.HasPrefix(c.category, name) {
			gained = append(gained, span{c.lo, c.hi})
		} else {
			lost = append(lost, span{c.lo, c.hi})
		}
	}
	return union(fromTable(unicode.Categories[name]).minus(lost), gained)
}

func alphabetic() spans {
	return union(category("L"), category("Nl"), fromTable(unicode.Other_Alphabetic))
}

// words is \w of Rust's regular expressions, which say what a word is beside an
// added token and in the pre-tokenizer Whitespace.
func words() spans {
	return union(alphabetic(), category("M"), category("Nd"), category("Pc"), fromTable(unicode.Join_Control))
}

// wordClass is Oniguruma's \w: six numbers of Latin-1 are words to it, and the
// joiners are not.
func wordClass() spans {
	latin1 := spans{{0xB2, 0xB3}, {0xB9, 0xB9}, {0xBC, 0xBE}}
	return union(words().minus(fromTable(unicode.Join_Control)), latin1)
}

func hexDigits() spans { return fromTable(unicode.ASCII_Hex_Digit) }

func spaces() spans { return fromTable(unicode.White_Space) }

// scripts16 are the code points that scripts gained between package unicode's
// version 15 and 16.
var scripts16 = map[string]spans{
	"Arabic":   {{0x0897, 0x0897}, {0x10EC2, 0x10EC4}, {0x10EFC, 0x10EFC}},
	"Cyrillic": {{0x1C89, 0x1C8A}},
	"Han":      {{0x2EBF0, 0x2EE5D}},
	"Latin":    {{0xA7CB, 0xA7CD}, {0xA7DA, 0xA7DC}},
}
