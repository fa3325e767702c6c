// Package clip owns how a text from outside is shortened for a message. It may not
// know what texts say.
package clip

import "unicode/utf8"

const ellipsis = "…"

// Text is s where that has at most so many bytes; else its beginning, cut between
// characters, with … behind it: at most so many bytes together.
func Text(s string, most int) string {
	if len(s) <= most {
		return s
	}
	end := max(most-len(ellipsis), 0)
	for end > 0 && !utf8.RuneStart(s[end]) {
		end--
	}
	return s[:end] + ellipsis
}
