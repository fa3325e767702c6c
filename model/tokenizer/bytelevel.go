package tokenizer

import (
	"strings"
	"unicode/utf8"
)

// A byte-level vocabulary writes each byte as one printable character, as GPT-2
// did: a byte that is a printable Latin-1 character as itself, the others as
// U+0100 and on.

// byteChars are the characters of the 256 bytes, charBytes the reverse for the
// characters below U+0144; -1 where there is no byte.
var byteChars, charBytes = byteAlphabet()

func byteAlphabet() (chars [256]string, bytes [0x144]int16) {
	for i := range bytes {
		bytes[i] = -1
	}
	next := rune(0x100)
	for b := range 256 {
		r := rune(b)
		if !printable(r) {
			r = next
			next++
		}
		chars[b] = string(r)
		bytes[r] = int16(b)
	}
	return chars, bytes
}

func printable(r rune) bool {
	return r >= '!' && r <= '~' || r >= 0xA1 && r <= 0xAC || r >= 0xAE && r <= 0xFF
}

// byteLevel is toByteLevel as a normalizer.
func byteLevel(w *work, s string) string {
	w.grow(2 * len(s))
	return toByteLevel(s)
}

// toByteLevel writes each byte of s as its character.
func toByteLevel(s string) string {
	var out strings.Builder
	out.Grow(2 * len(s))
	for i := range len(s) {
		out.WriteString(byteChars[s[i]])
	}
	return out.String()
}

// fromByteLevel appends the bytes that a token's characters stand for. A token
// with any other character, such as an added one, stands for itself.
func fromByteLevel(dst []byte, token string) []byte {
	n := len(dst)
	for _, r := range token {
		if int(r) >= len(charBytes) || charBytes[r] < 0 {
			return append(dst[:n], token...)
		}
		dst = append(dst, byte(charBytes[r]))
	}
	return dst
}

// validUTF8 replaces what is not UTF-8 by U+FFFD: one for each longest piece
// that could have begun a character, as the Unicode standard recommends and Rust
// and Python do. (strings.ToValidUTF8 puts one for a whole run.)
func validUTF8(s string) string {
	if utf8.ValidString(s) {
		return s
	}
	var out strings.Builder
	for s != "" {
		r, size := utf8.DecodeRuneInString(s)
		if r == utf8.RuneError && size == 1 {
			size = badPrefix(s)
		}
		out.WriteRune(r)
		s = s[size:]
	}
	return out.String()
}

// badPrefix is how many bytes of s, which begins with an incomplete or invalid
// character, one U+FFFD stands for.
func badPrefix(s string) int {
	n := 1
	for n < min(len(s), utf8.UTFMax) && mayBegin(s[:n+1]) {
		n++
	}
	return n
}

// mayBegin reports whether a character could begin with s, which is shorter than
// a character.
func mayBegin(s string) bool {
	return !utf8.FullRuneInString(s)
}
