package tokenizer

import (
	"context"
	"strconv"
	"strings"
	"unicode/utf8"
)

// Decoding is a chain of stages, through which the tokens' strings pass. It is
// made for streaming: each stage hands on what can no longer change, so that a
// whole text and a stream of it are decoded by the same code.

// stage takes tokens, each in one or more parts: end marks a token's last part.
type stage interface {
	push(part string, end bool)
	// flush ends the text.
	flush()
}

// decoder is one step of tokenizer.json's decoder.
type decoder struct {
	// stage makes the step, for one text, in front of the next.
	stage func(next stage) stage
	// bytes does what the step does to a token in the middle of a text. nil: it
	// does nothing there.
	bytes func(token []byte) []byte
}

// chain puts the steps in front of a stage.
func chain(steps []decoder, last stage) stage {
	for i := len(steps) - 1; i >= 0; i-- {
		last = steps[i].stage(last)
	}
	return last
}

// output collects decoded text.
type output struct{ strings.Builder }

func (o *output) push(part string, _ bool) { o.WriteString(part) }
func (o *output) flush()                   {}

// take returns what has been collected since the last time.
func (o *output) take() string {
	s := o.String()
	o.Reset()
	return s
}

// joiner puts spaces between tokens: what is done without a decoder.
type joiner struct {
	next  stage
	ended bool // a token has
}

func (j *joiner) push(part string, end bool) {
	if j.ended {
		j.next.push(" ", false)
	}
	j.next.push(part, end)
	j.ended = end
}

func (j *joiner) flush() { j.next.flush() }

func joinDecoder() decoder {
	return decoder{stage: func(next stage) stage { return &joiner{next: next} }}
}

// tokens joins the parts of a token and hands it to each; done ends the text.
type tokens struct {
	each func(token string)
	done func()
	kept string
}

func (t *tokens) push(part string, end bool) {
	if t.kept != "" {
		part = t.kept + part
	}
	if !end {
		t.kept = part
		return
	}
	t.kept = ""
	t.each(part)
}

func (t *tokens) flush() { t.done() }

// byteLevelDecoder turns a byte-level vocabulary's characters back into bytes.
func byteLevelDecoder() decoder {
	return decoder{
		stage: func(next stage) stage {
			b := &byteText{next: next}
			return &tokens{each: b.token, done: b.flush}
		},
		bytes: func(token []byte) []byte { return fromByteLevel(nil, string(token)) },
	}
}

// byteText makes text of bytes: one token, that grows by whole characters.
type byteText struct {
	next stage
	kept []byte
}

func (b *byteText) token(token string) {
	b.kept = fromByteLevel(b.kept, token)
	n := len(b.kept) - incomplete(b.kept)
	if n > 0 {
		b.next.push(validUTF8(string(b.kept[:n])), false)
		b.kept = append(b.kept[:0], b.kept[n:]...)
	}
}

func (b *byteText) flush() {
	b.next.push(validUTF8(string(b.kept)), true)
	b.next.flush()
}

// incomplete is the length of the incomplete character at the end of b.
func incomplete(b []byte) int {
	for n := 1; n < utf8.UTFMax && n <= len(b); n++ {
		tail := b[len(b)-n:]
		if utf8.RuneStart(tail[0]) {
			if utf8.FullRune(tail) {
				return 0
			}
			return n
		}
	}
	return 0
}

// byteFallbackDecoder turns tokens such as <0xE2> into text. Tokens of bytes
// that follow each other and are not UTF-8 become U+FFFD, each of them: so what
// they are is known only when another token comes.
func byteFallbackDecoder() decoder {
	return decoder{
		stage: func(next stage) stage {
			b := &byteRun{next: next}
			return &tokens{each: b.token, done: b.flush}
		},
		bytes: func(token []byte) []byte {
			if b, ok := tokenByte(string(token)); ok {
				return []byte{b}
			}
			return token
		},
	}
}

// tokenByte returns the byte that a token such as <0xE2> stands for.
func tokenByte(token string) (byte, bool) {
	if len(token) != 6 || token[:3] != "<0x" || token[5] != '>' {
		return 0, false
	}
	digits := strings.TrimPrefix(token[3:5], "+") // as Rust's from_str_radix takes it
	b, err := strconv.ParseUint(digits, 16, 8)
	return byte(b), err == nil
}

type byteRun struct {
	next stage
	kept []byte
}

func (b *byteRun) token(token string) {
	if c, ok := tokenByte(token); ok {
		b.kept = append(b.kept, c)
		return
	}
	b.end()
	b.next.push(token, true)
}

// end hands on the bytes that have come: as one token, or as one per byte where
// they are not text.
func (b *byteRun) end() {
	switch {
	case len(b.kept) == 0:
	case utf8.Valid(b.kept):
		b.next.push(string(b.kept), true)
	default:
		for range b.kept {
			b.next.push(string(utf8.RuneError), true)
		}
	}
	b.kept = b.kept[:0]
}

func (b *byteRun) flush() {
	b.end()
	b.next.flush()
}

// fuseDecoder makes all tokens one.
func fuseDecoder() decoder {
	return decoder{stage: func(next stage) stage { return &fuse{next} }}
}

type fuse struct{ next stage }

func (f *fuse) push(part string, _ bool) { f.next.push(part, false) }

func (f *fuse) flush() {
	f.next.push("", true)
	f.next.flush()
}

// replaceToken replaces what is found in a token; one on which that takes too much
// stays as it is.
func replaceToken(s string, f finder, content string) string {
	out, err := func() (out string, err error) {
		defer catch(&err)
		return replace(newWork(context.Background(), len(s)), s, f, content), nil
	}()
	if err != nil {
		return s
	}
	return out
}

// replaceDecoder replaces what is found in each token.
func replaceDecoder(f finder, content string) decoder {
	return decoder{
		stage: func(next stage) stage {
			return &tokens{each: func(s string) { next.push(replaceToken(s, f, content), true) }, done: next.flush}
		},
		bytes: func(token []byte) []byte {
			if !utf8.Valid(token) {
				return token
			}
			return []byte(replaceToken(string(token), f, content))
		},
	}
}

// stripDecoder takes up to start and stop times content off a token's ends.
func stripDecoder(content rune, start, stop int) decoder {
	return decoder{stage: func(next stage) stage {
		return &strip{next: next, content: string(content), start: start, stop: stop, left: start}
	}}
}

type strip struct {
	next        stage
	content     string
	start, stop int
	left        int    // how many may still be taken off this token's beginning
	kept        string // the last characters, which may be taken off
}

func (s *strip) push(part string, end bool) {
	part = s.kept + s.trimStart(part)
	s.kept = ""
	if end {
		s.next.push(s.trimStop(part), true)
		s.left = s.start
		return
	}
	n := len(part) - len(lastRunes(part, s.stop))
	s.kept = part[n:]
	s.next.push(part[:n], false)
}

func (s *strip) trimStart(part string) string {
	for s.left > 0 && strings.HasPrefix(part, s.content) {
		part = part[len(s.content):]
		s.left--
	}
	if part != "" {
		s.left = 0
	}
	return part
}

func (s *strip) trimStop(part string) string {
	for range s.stop {
		part = strings.TrimSuffix(part, s.content)
	}
	return part
}

func (s *strip) flush() { s.next.flush() }

// lastRunes returns the last n characters of s.
func lastRunes(s string, n int) string {
	end := len(s)
	for ; n > 0 && end > 0; n-- {
		_, size := utf8.DecodeLastRuneInString(s[:end])
		end -= size
	}
	return s[end:]
}

// decoder writes marks as spaces, and leaves out those of the first token where
// the pre-tokenizer put one.
func (m metaspace) decoder() decoder {
	return decoder{
		stage: func(next stage) stage { return &unmark{next: next, mark: m.mark, drop: m.scheme != "never"} },
		bytes: func(token []byte) []byte {
			return []byte(strings.ReplaceAll(string(token), m.mark, " "))
		},
	}
}

type unmark struct {
	next stage
	mark string
	drop bool // this is the first token, and its marks are left out
}

func (u *unmark) push(part string, end bool) {
	space := " "
	if u.drop {
		space = ""
	}
	u.next.push(strings.ReplaceAll(part, u.mark, space), end)
	u.drop = u.drop && !end
}

func (u *unmark) flush() { u.next.flush() }
