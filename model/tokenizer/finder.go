package tokenizer

import "strings"

// finder finds what a tokenizer.json's pattern means: {"String": …} or
// {"Regex": …}.
type finder interface {
	// each calls yield with the matches in text, from left to right, as byte
	// offsets.
	each(w *work, text string, yield func(begin, end int))
}

// literal finds itself. It is not empty.
type literal string

func (l literal) each(w *work, text string, yield func(begin, end int)) {
	const found = 32 // what a match takes
	w.spend(len(text))
	for at := 0; ; {
		i := strings.Index(text[at:], string(l))
		if i < 0 {
			return
		}
		w.spend(found)
		yield(at+i, at+i+len(l))
		at += i + len(l)
	}
}

// replace puts content in the place of what is found.
func replace(w *work, s string, f finder, content string) string {
	var out strings.Builder
	last, found := 0, false
	f.each(w, s, func(begin, end int) {
		w.grow(begin - last + len(content))
		out.WriteString(s[last:begin])
		out.WriteString(content)
		last, found = end, true
	})
	if !found {
		return s
	}
	w.grow(len(s) - last)
	out.WriteString(s[last:])
	return out.String()
}
