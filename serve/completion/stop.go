package completion

import "strings"

// stopFinder looks for stop strings in a text that arrives in pieces. It holds the
// end of the text back while a stop string may begin there, so that it never shows a
// part of a stop string.
type stopFinder struct {
	stops []string
	// held is the longest suffix of the text so far that is a proper prefix of a stop
	// string.
	held string
}

// push adds a piece. It returns the text that may be shown, and the stop string if
// there is one: the one that ends first, of several that end there the longest. With
// search false, it does not look for stop strings that end within this piece.
func (f *stopFinder) push(piece string, search bool) (shown, stop string) {
	text := f.held + piece
	if search {
		if start, stop := firstStop(text, f.stops); stop != "" {
			f.held = text[start:]
			return text[:start], stop
		}
	}
	keep := longestPrefix(text, f.stops)
	f.held = text[len(text)-keep:]
	return text[:len(text)-keep], ""
}

// flush returns what is held back once the text has ended.
func (f *stopFinder) flush() string {
	held := f.held
	f.held = ""
	return held
}

func firstStop(text string, stops []string) (start int, stop string) {
	end := len(text) + 1
	for _, s := range stops {
		at := strings.Index(text, s)
		if at < 0 {
			continue
		}
		if e := at + len(s); e < end || e == end && at < start {
			start, stop, end = at, s, e
		}
	}
	return start, stop
}

// longestPrefix is the length of the text's longest suffix that is a proper prefix of
// a stop string.
func longestPrefix(text string, stops []string) int {
	longest := 0
	for _, s := range stops {
		for n := min(len(s)-1, len(text)); n > longest; n-- {
			if strings.HasSuffix(text, s[:n]) {
				longest = n
			}
		}
	}
	return longest
}
