package jinja

import (
	"fmt"
	"regexp"
	"strconv"
	"strings"
	"unicode"
	"unicode/utf8"
)

type tokenKind int

const (
	tokenData tokenKind = iota // text outside of tags
	tokenBlockBegin
	tokenBlockEnd
	tokenVariableBegin
	tokenVariableEnd
	tokenName
	tokenString
	tokenInteger
	tokenFloat
	tokenOperator
	tokenEOF
)

type token struct {
	kind tokenKind
	text string // a string's value; a number without underscores
	line int
}

func (t token) String() string {
	switch t.kind {
	case tokenEOF:
		return "end of template"
	case tokenBlockEnd, tokenVariableEnd:
		return "end of tag"
	case tokenString:
		return fmt.Sprintf("string %q", t.text)
	}
	return fmt.Sprintf("%q", t.text)
}

// SyntaxError is a template that does not follow Jinja's grammar, or uses of it
// what is not supported here.
type SyntaxError struct {
	Line    int
	Message string
}

func (e *SyntaxError) Error() string { return fmt.Sprintf("line %d: %s", e.Line, e.Message) }

// lexer cuts a template into tokens, with Jinja's options trim_blocks and
// lstrip_blocks on: a block's tag takes the newline behind it, and the spaces
// before it where it begins a line.
type lexer struct {
	source string
	at     int
	line   int
	tokens []token
	// fresh says that what was read last ended with a newline.
	fresh bool
}

var newlines = strings.NewReplacer("\r\n", "\n", "\r", "\n")

// lex returns the template's tokens. It panics with *SyntaxError.
func lex(source string) []token {
	source = strings.TrimSuffix(newlines.Replace(source), "\n")
	l := &lexer{source: source, line: 1, fresh: true}
	for l.at < len(source) {
		l.data()
	}
	return append(l.tokens, token{kind: tokenEOF, line: l.line})
}

func (l *lexer) fail(format string, args ...any) {
	panic(&SyntaxError{l.line, fmt.Sprintf(format, args...)})
}

func (l *lexer) rest() string { return l.source[l.at:] }

// skip goes n bytes forward.
func (l *lexer) skip(n int) string {
	s := l.source[l.at : l.at+n]
	l.at += n
	l.line += strings.Count(s, "\n")
	l.fresh = strings.HasSuffix(s, "\n")
	return s
}

func (l *lexer) emit(kind tokenKind, text string) {
	l.tokens = append(l.tokens, token{kind, text, l.line})
}

// emitData emits text, where there is any.
func (l *lexer) emitData(text string, line int) {
	if text != "" {
		l.tokens = append(l.tokens, token{tokenData, text, line})
	}
}

var tagBegin = regexp.MustCompile(`\{[{%#]`)

// data reads text up to the next tag, and the tag.
func (l *lexer) data() {
	fresh, line := l.fresh, l.line
	found := tagBegin.FindStringIndex(l.rest())
	if found == nil {
		l.emitData(l.skip(len(l.rest())), line)
		return
	}
	text := l.skip(found[0])
	tag := l.skip(2)
	sign := byte(0)
	if l.at < len(l.source) && (l.source[l.at] == '-' || l.source[l.at] == '+') {
		sign = l.skip(1)[0]
	}
	switch {
	case sign == '-':
		text = strings.TrimRightFunc(text, IsSpace)
	case sign == 0 && tag != "{{":
		text = stripLine(text, fresh)
	}
	l.emitData(text, line)
	switch tag {
	case "{#":
		l.comment()
	case "{%":
		l.block()
	default:
		l.emit(tokenVariableBegin, tag)
		l.expression("}}", tokenVariableEnd)
	}
}

// stripLine takes the spaces off text that follow its last newline, where there
// is nothing else; fresh says that text begins a line.
func stripLine(text string, fresh bool) string {
	last := strings.LastIndexByte(text, '\n') + 1
	if (last > 0 || fresh) && strings.TrimFunc(text[last:], IsSpace) == "" {
		return text[:last]
	}
	return text
}

// comment skips what follows {#.
func (l *lexer) comment() {
	end := strings.Index(l.rest(), "#}")
	if end < 0 {
		l.fail("a comment without an end")
	}
	sign := l.source[l.at+max(end-1, 0)]
	if end == 0 {
		sign = 0
	}
	l.skip(end + 2)
	l.afterBlock(sign)
}

// afterBlock skips what the end of a block's tag takes with it.
func (l *lexer) afterBlock(sign byte) {
	switch {
	case sign == '-':
		l.spaces()
	case sign != '+' && strings.HasPrefix(l.rest(), "\n"):
		l.skip(1)
	}
}

// spaces skips whitespace.
func (l *lexer) spaces() {
	if n := len(l.rest()) - len(strings.TrimLeftFunc(l.rest(), IsSpace)); n > 0 {
		l.skip(n)
	}
}

var (
	rawBegin = regexp.MustCompile(`^\s*raw\s*(-?)%\}`)
	rawEnd   = regexp.MustCompile(`\{%([-+]?)\s*endraw\s*([-+]?)%\}`)
)

// block reads what follows {%.
func (l *lexer) block() {
	begin := rawBegin.FindStringSubmatch(l.rest())
	if begin == nil {
		l.emit(tokenBlockBegin, "{%")
		l.expression("%}", tokenBlockEnd)
		return
	}
	l.skip(len(begin[0]))
	if begin[1] == "-" {
		l.spaces()
	}
	end := rawEnd.FindStringSubmatchIndex(l.rest())
	if end == nil {
		l.fail("raw without endraw")
	}
	l.raw(l.rest()[:end[0]], l.rest()[end[2]:end[3]], l.rest()[end[4]:end[5]], end[1])
}

// raw emits text as it stands; before and after are the signs of the endraw tag,
// which ends behind length bytes.
func (l *lexer) raw(text, before, after string, length int) {
	switch before {
	case "-":
		text = strings.TrimRightFunc(text, IsSpace)
	case "":
		text = stripLine(text, l.fresh)
	}
	l.emitData(text, l.line)
	l.skip(length)
	sign := byte(0)
	if after != "" {
		sign = after[0]
	}
	l.afterBlock(sign)
}

var (
	float   = regexp.MustCompile(`^[0-9](?:_?[0-9])*(?:\.[0-9](?:_?[0-9])*[eE][+-]?[0-9](?:_?[0-9])*|\.[0-9](?:_?[0-9])*|[eE][+-]?[0-9](?:_?[0-9])*)`)
	integer = regexp.MustCompile(`^(?:0[bB](?:_?[01])+|0[oO](?:_?[0-7])+|0[xX](?:_?[0-9a-fA-F])+|[1-9](?:_?[0-9])*|0(?:_?0)*)`)
	// operators, longest first.
	operators = []string{"//", "**", "==", "!=", ">=", "<=", "+", "-", "/", "*", "%", "~", "[", "]", "(", ")", "{", "}",
		">", "<", "=", ".", ":", "|", ",", ";"}
)

// expression reads what is in a tag up to its end. Brackets in it must match.
func (l *lexer) expression(end string, kind tokenKind) {
	var open []byte
	for {
		l.spaces()
		if l.at == len(l.source) {
			l.fail("a tag without an end")
		}
		if len(open) == 0 && l.tagEnd(end, kind) {
			return
		}
		if l.literal() {
			continue
		}
		op := l.operator()
		switch op {
		case "(", "[", "{":
			open = append(open, closing[op])
		case ")", "]", "}":
			if len(open) == 0 || open[len(open)-1] != op[0] {
				l.fail("unexpected %q", op)
			}
			open = open[:len(open)-1]
		}
	}
}

var closing = map[string]byte{"(": ')', "[": ']', "{": '}'}

// tagEnd reads the end of a tag, where it is here.
func (l *lexer) tagEnd(end string, kind tokenKind) bool {
	sign := byte(0)
	rest := l.rest()
	if rest[0] == '-' || rest[0] == '+' && end == "%}" {
		sign, rest = rest[0], rest[1:]
	}
	if !strings.HasPrefix(rest, end) {
		return false
	}
	l.emit(kind, end)
	l.skip(len(l.rest()) - len(rest) + len(end))
	if kind == tokenBlockEnd || sign == '-' {
		l.afterBlock(sign)
	}
	return true
}

// literal reads a name, number or string, where one is here.
func (l *lexer) literal() bool {
	rest := l.rest()
	switch {
	case rest[0] == '"' || rest[0] == '\'':
		l.string(rest[0])
		return true
	case rest[0] >= '0' && rest[0] <= '9':
		l.number(rest)
		return true
	}
	if n := nameLength(rest); n > 0 {
		l.emit(tokenName, l.skip(n))
		return true
	}
	return false
}

func (l *lexer) number(rest string) {
	kind, text := tokenFloat, float.FindString(rest)
	if text == "" || l.source[l.at-1] == '.' { // x.0.1 is two items
		kind, text = tokenInteger, integer.FindString(rest)
	}
	l.skip(len(text))
	l.emit(kind, strings.ReplaceAll(text, "_", ""))
}

func nameLength(s string) int {
	for i, r := range s {
		if r != '_' && !unicode.IsLetter(r) && (i == 0 || !unicode.IsDigit(r)) {
			return i
		}
	}
	return len(s)
}

func (l *lexer) operator() string {
	for _, op := range operators {
		if strings.HasPrefix(l.rest(), op) {
			l.emit(tokenOperator, op)
			return l.skip(len(op))
		}
	}
	r, _ := utf8.DecodeRuneInString(l.rest())
	l.fail("unexpected character %q", r)
	return ""
}

func (l *lexer) string(quote byte) {
	rest := l.rest()
	end := 1
	for end < len(rest) && rest[end] != quote {
		if rest[end] == '\\' {
			end++
		}
		end++
	}
	if end >= len(rest) {
		l.fail("a string without an end")
	}
	l.emit(tokenString, l.unescape(rest[1:end]))
	l.skip(end + 1)
}

// unescape reads a string's escapes, which are Python's.
func (l *lexer) unescape(s string) string {
	var out strings.Builder
	for {
		i := strings.IndexByte(s, '\\')
		if i < 0 || i+1 == len(s) {
			out.WriteString(s)
			return out.String()
		}
		out.WriteString(s[:i])
		n := l.escape(&out, s[i+1:])
		s = s[i+1+n:]
	}
}

var simpleEscapes = map[byte]string{
	'n': "\n", 't': "\t", 'r': "\r", 'b': "\b", 'f': "\f", 'v': "\v", 'a': "\a",
	'\\': `\`, '\'': "'", '"': `"`, '\n': "",
}

// escape writes what an escape without its backslash means, and returns its
// length. Unknown escapes stay as they are.
func (l *lexer) escape(out *strings.Builder, s string) int {
	if text, ok := simpleEscapes[s[0]]; ok {
		out.WriteString(text)
		return 1
	}
	if n := map[byte]int{'x': 2, 'u': 4, 'U': 8}[s[0]]; n > 0 {
		return l.hexEscape(out, s, n)
	}
	n := 0
	for n < min(3, len(s)) && s[n] >= '0' && s[n] <= '7' {
		n++
	}
	if n == 0 {
		out.WriteByte('\\')
		return 0
	}
	code, _ := strconv.ParseUint(s[:n], 8, 32) // checked just now
	out.WriteRune(rune(code))
	return n
}

func (l *lexer) hexEscape(out *strings.Builder, s string, digits int) int {
	if len(s) <= digits {
		l.fail("the escape \\%s is too short", s)
	}
	code, err := strconv.ParseUint(s[1:1+digits], 16, 32)
	if err != nil || code > unicode.MaxRune || code >= 0xD800 && code < 0xE000 {
		l.fail("the escape \\%s is no character", s[:1+digits])
	}
	out.WriteRune(rune(code))
	return 1 + digits
}

// IsSpace is Python's str.isspace for a character.
func IsSpace(r rune) bool {
	return unicode.IsSpace(r) || r >= 0x1C && r <= 0x1F
}
