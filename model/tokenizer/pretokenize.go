package tokenizer

import (
	"strings"
	"unicode/utf8"
)

// piece is a part of the text on its way to the model. first says that it begins
// where the whole text began.
type piece struct {
	text  string
	first bool
}

// preTokenizer yields the parts of a piece, in order. Empty parts do not count.
type preTokenizer func(w *work, p piece, yield func(piece))

func sequencePreTokenizer(parts []preTokenizer) preTokenizer {
	switch len(parts) {
	case 0:
		return func(_ *work, p piece, yield func(piece)) { yield(p) }
	case 1:
		return parts[0]
	}
	rest := sequencePreTokenizer(parts[1:])
	return func(w *work, p piece, yield func(piece)) {
		parts[0](w, p, func(q piece) { rest(w, q, yield) })
	}
}

// splitter cuts a text into spans that cover it: yield is told which of them
// matched.
type splitter func(w *work, text string, yield func(begin, end int, match bool))

// splitPreTokenizer cuts at what the splitter finds. behavior says what becomes
// of the matches; invert, that what does not match is the match.
func splitPreTokenizer(find splitter, behavior behavior, invert bool) preTokenizer {
	if invert {
		find = inverted(find)
	}
	cut := behaviors[behavior]
	return func(w *work, p piece, yield func(piece)) {
		cut(w, find, p.text, func(begin, end int) {
			if begin < end {
				yield(piece{p.text[begin:end], p.first && begin == 0})
			}
		})
	}
}

func inverted(find splitter) splitter {
	return func(w *work, text string, yield func(begin, end int, match bool)) {
		find(w, text, func(begin, end int, match bool) { yield(begin, end, !match) })
	}
}

// splitAt makes what is found, and what is between, spans.
func splitAt(f finder) splitter {
	return func(w *work, text string, yield func(begin, end int, match bool)) {
		last := 0
		f.each(w, text, func(begin, end int) {
			if last < begin {
				yield(last, begin, false)
			}
			yield(begin, end, true)
			last = end
		})
		if last < len(text) {
			yield(last, len(text), false)
		}
	}
}

// charSplitter matches single characters.
func charSplitter(is func(rune) bool) splitter {
	return func(w *work, text string, yield func(begin, end int, match bool)) {
		const character = 8 // what each takes
		last := 0
		for at, r := range text {
			w.spend(character)
			if !is(r) {
				continue
			}
			if last < at {
				yield(last, at, false)
			}
			last = at + utf8.RuneLen(r)
			yield(at, last, true)
		}
		if last < len(text) {
			yield(last, len(text), false)
		}
	}
}

// behavior is what becomes of the matches, by Hugging Face's name.
type behavior string

// behaviors cut a text at a splitter's matches.
var behaviors = map[behavior]func(w *work, find splitter, text string, yield func(begin, end int)){
	"Removed":            cutRemoved,
	"Isolated":           cutIsolated,
	"Contiguous":         cutContiguous,
	"MergedWithPrevious": cutMergedWithPrevious,
	"MergedWithNext":     cutMergedWithNext,
}

func cutRemoved(w *work, find splitter, text string, yield func(begin, end int)) {
	find(w, text, func(begin, end int, match bool) {
		if !match {
			yield(begin, end)
		}
	})
}

func cutIsolated(w *work, find splitter, text string, yield func(begin, end int)) {
	find(w, text, func(begin, end int, _ bool) { yield(begin, end) })
}

// cutContiguous joins matches that touch. The first span joins nothing; like
// Hugging Face it begins as if what came before had not matched.
func cutContiguous(w *work, find splitter, text string, yield func(begin, end int)) {
	cutJoined(w, find, text, yield, func(match, previous bool) bool { return match == previous })
}

// cutMergedWithPrevious joins a match to what comes before it, one match each.
func cutMergedWithPrevious(w *work, find splitter, text string, yield func(begin, end int)) {
	cutJoined(w, find, text, yield, func(match, previous bool) bool { return match && !previous })
}

// cutJoined joins a span to the one before where join says so.
func cutJoined(w *work, find splitter, text string, yield func(begin, end int), join func(match, previous bool) bool) {
	begin, last, open, previous := 0, 0, false, false
	find(w, text, func(b, e int, match bool) {
		if open && !join(match, previous) {
			yield(begin, last)
			begin = b
		}
		last, open, previous = e, true, match
	})
	if open {
		yield(begin, last)
	}
}

// cutMergedWithNext joins a match to what comes behind it, one match each. Seen
// from the end this is cutMergedWithPrevious.
func cutMergedWithNext(w *work, find splitter, text string, yield func(begin, end int)) {
	type found struct {
		begin, end int
		match      bool
	}
	const spanSize = 24
	var spans []found
	find(w, text, func(begin, end int, match bool) {
		w.grow(spanSize)
		spans = append(spans, found{begin, end, match})
	})
	begin := 0
	for i, s := range spans {
		if i+1 < len(spans) && s.match && !spans[i+1].match {
			continue
		}
		yield(begin, s.end)
		begin = s.end
	}
}

// byteLevelSplit is what GPT-2 splits by.
const byteLevelSplit = `'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+`

// spacePrefix puts a space before a piece that has none.
func spacePrefix(w *work, p piece, yield func(piece)) {
	if !strings.HasPrefix(p.text, " ") {
		w.grow(1 + len(p.text))
		p.text = " " + p.text
	}
	yield(p)
}

// metaspace writes spaces as a mark, begins pieces with one, and cuts before it.
type metaspace struct {
	mark   string
	scheme string // always, first, never
	split  bool
}

func (m metaspace) preTokenizer() preTokenizer {
	cut := splitPreTokenizer(splitAt(literal(m.mark)), "MergedWithNext", false)
	return func(w *work, p piece, yield func(piece)) {
		w.grow(len(m.mark) * (1 + len(p.text)))
		p.text = strings.ReplaceAll(p.text, " ", m.mark)
		prepend := m.scheme == "always" || m.scheme == "first" && p.first
		if prepend && !strings.HasPrefix(p.text, m.mark) {
			p.text = m.mark + p.text
		}
		if m.split {
			cut(w, p, yield)
			return
		}
		yield(p)
	}
}

// digits are Rust's, which knows those of Unicode 17.
func digits() func(rune) bool {
	return newRuneSet(union(category("N"), spans{{0x11DE0, 0x11DE9}, {0x16FF4, 0x16FF6}})).has
}

// punctuation is ASCII's, symbols among it, and Unicode's.
func punctuation() func(rune) bool {
	ascii := spans{{'!', '/'}, {':', '@'}, {'[', '`'}, {'{', '~'}}
	older := spans{{0x166D, 0x166D}, {0x111C9, 0x111C9}} // were punctuation once
	return newRuneSet(union(category("P").minus(laterPunctuation), ascii, older)).has
}

// fixedLength cuts after every n characters.
func fixedLength(n int) preTokenizer {
	return func(w *work, p piece, yield func(piece)) {
		begin, count := 0, 0
		for at := range p.text {
			w.spend(1)
			if count == n {
				yield(piece{p.text[begin:at], p.first && begin == 0})
				begin, count = at, 0
			}
			count++
		}
		if begin < len(p.text) {
			yield(piece{p.text[begin:], p.first && begin == 0})
		}
	}
}
