package tokenizer

import (
	"fmt"
	"strconv"
	"strings"
	"unicode/utf8"
)

// A pattern is a regular expression of a pre-tokenizer, in Oniguruma's syntax as
// Ruby has it. What is understood: literals, classes with ranges, nested
// classes, && and properties, alternation, groups (captures are not kept), the
// option i, greedy, lazy and possessive repeats, atomic groups, lookahead,
// lookbehind of one character, and anchors. All else is refused by name.

// expr is a parsed pattern: one of the types below.
type expr interface{}

type (
	oneOf    struct{ set spans }    // one character of a set
	sequence struct{ parts []expr } // one after the other
	choice   struct{ options []expr }
	repeat   struct {
		sub      expr
		min, max int // max < 0: unbounded
		mode     repeatMode
	}
	atomic struct{ sub expr } // matches once, and never gives back
	look   struct {
		sub            expr
		behind, negate bool
	}
	anchor struct{ kind anchorKind }
)

type repeatMode int

const (
	greedy repeatMode = iota
	lazy
	possessive
)

type anchorKind int

const (
	lineBegin anchorKind = iota
	lineEnd
	textBegin
	textEnd
	textEndNewline // at the end, or before a newline there
	wordEdge
	notWordEdge
)

// Bounds of a pattern.
const (
	maxPattern = 1 << 13 // bytes
	maxNesting = 64
	maxRepeat  = 1000
)

// patternParser reads a pattern from left to right. Its methods stop at the
// first error, which is kept in err.
type patternParser struct {
	text  string
	at    int
	depth int
	fold  bool // the option i holds
	dot   bool // the option m holds: a dot matches newlines
	err   error
}

func parsePattern(text string) (expr, error) {
	if len(text) > maxPattern {
		return nil, fmt.Errorf("a pattern of %d bytes; at most %d are taken", len(text), maxPattern)
	}
	if !utf8.ValidString(text) {
		return nil, fmt.Errorf("the pattern is not valid UTF-8")
	}
	p := &patternParser{text: text}
	e := p.alternation()
	if p.err == nil && p.at < len(text) {
		p.fail("a closing parenthesis without an opening one")
	}
	return e, p.err
}

func (p *patternParser) fail(format string, args ...any) {
	if p.err == nil {
		p.err = fmt.Errorf("pattern %q, byte %d: %s", p.text, p.at, fmt.Sprintf(format, args...))
	}
	p.at = len(p.text)
}

func (p *patternParser) rest() string { return p.text[p.at:] }

func (p *patternParser) eat(s string) bool {
	if strings.HasPrefix(p.rest(), s) {
		p.at += len(s)
		return true
	}
	return false
}

func (p *patternParser) next() rune {
	r, size := utf8.DecodeRuneInString(p.rest())
	p.at += size
	return r
}

func (p *patternParser) alternation() expr {
	if p.depth++; p.depth > maxNesting {
		p.fail("nested deeper than %d", maxNesting)
	}
	defer func() { p.depth-- }()
	options := []expr{p.sequence()}
	for p.eat("|") {
		options = append(options, p.sequence())
	}
	if len(options) == 1 {
		return options[0]
	}
	return choice{options}
}

func (p *patternParser) sequence() expr {
	var parts []expr
	for p.at < len(p.text) && p.rest()[0] != '|' && p.rest()[0] != ')' {
		parts = append(parts, p.repeated())
	}
	if len(parts) == 1 {
		return parts[0]
	}
	p.refuseWideFolds(parts)
	return sequence{parts}
}

// wideFolds are pairs of characters that one character folds to: under the
// option i Oniguruma lets "ss" match "ß".
var wideFolds = [][2]rune{
	{'s', 's'}, {'f', 'f'}, {'f', 'i'}, {'f', 'l'}, {'s', 't'}, {'i', 0x307}, {0x2bc, 'n'},
	{'j', 0x30c}, {'h', 0x331}, {'t', 0x308}, {'w', 0x30a}, {'y', 0x30a}, {'a', 0x2be},
	{'ե', 'ւ'}, {'մ', 'ն'}, {'մ', 'ե'}, {'մ', 'ի'}, {'վ', 'ն'}, {'մ', 'խ'},
}

// refuseWideFolds refuses literals of which two characters could match one.
func (p *patternParser) refuseWideFolds(parts []expr) {
	if !p.fold {
		return
	}
	for i := 0; i+1 < len(parts); i++ {
		a, okA := parts[i].(oneOf)
		b, okB := parts[i+1].(oneOf)
		for _, wide := range wideFolds {
			if okA && okB && a.isCaseOf(wide[0]) && b.isCaseOf(wide[1]) {
				p.fail("%q without regard to case, which a single character matches too, is not supported", string(wide[:]))
			}
		}
	}
}

// isCaseOf reports whether the set is one character, in all its cases.
func (o oneOf) isCaseOf(r rune) bool { return o.set.has(r) && len(o.set) <= 4 }

func (p *patternParser) repeated() expr {
	e := p.atom()
	for {
		lo, hi, ok := p.quantifier()
		if !ok {
			return e
		}
		switch e.(type) {
		case look, anchor:
			p.fail("a repeated assertion")
		}
		e = repeat{e, lo, hi, p.mode()}
	}
}

func (p *patternParser) quantifier() (lo, hi int, ok bool) {
	switch {
	case p.eat("*"):
		return 0, -1, true
	case p.eat("+"):
		return 1, -1, true
	case p.eat("?"):
		return 0, 1, true
	case strings.HasPrefix(p.rest(), "{"):
		return p.interval()
	}
	return 0, 0, false
}

// interval reads {n}, {n,}, {n,m} or {,m}; anything else is a literal brace.
func (p *patternParser) interval() (lo, hi int, ok bool) {
	end := strings.IndexByte(p.rest(), '}')
	if end < 0 {
		return 0, 0, false
	}
	low, high, ranged := strings.Cut(p.rest()[1:end], ",")
	lo, lowOK := count(low, 0)
	hi, highOK := count(high, -1)
	if !lowOK || !highOK || low == "" && high == "" {
		return 0, 0, false
	}
	if !ranged {
		hi = lo
	}
	if lo > maxRepeat || hi > maxRepeat || hi >= 0 && hi < lo {
		p.fail("the repeat {%s}; 0 to %d in order are taken", p.rest()[1:end], maxRepeat)
		return 0, 0, false
	}
	p.at += end + 1
	if strings.HasPrefix(p.rest(), "?") && !ranged || strings.HasPrefix(p.rest(), "+") {
		p.fail("a repeat of the repeat {%d,%d} is not supported", lo, hi)
	}
	return lo, hi, true
}

// count reads a number; an empty one is the default.
func count(s string, empty int) (int, bool) {
	if s == "" {
		return empty, true
	}
	n, err := strconv.ParseUint(s, 10, 16)
	return int(n), err == nil
}

func (p *patternParser) mode() repeatMode {
	switch {
	case p.eat("?"):
		return lazy
	case p.eat("+"):
		return possessive
	}
	return greedy
}

func (p *patternParser) atom() expr {
	switch r := p.next(); r {
	case '(':
		return p.group()
	case '[':
		return oneOf{p.class()}
	case '\\':
		return p.escape()
	case '.':
		if p.dot {
			return oneOf{spans{{0, maxRune}}}
		}
		return oneOf{spans{{'\n', '\n'}}.complement()}
	case '^':
		return anchor{lineBegin}
	case '$':
		return anchor{lineEnd}
	case '*', '+', '?':
		p.at--
		p.fail("a repeat of nothing")
		return nil
	default:
		return p.literal(r)
	}
}

func (p *patternParser) literal(r rune) expr {
	set := spans{{r, r}}
	if p.fold {
		set = set.fold()
	}
	return oneOf{set}
}

// group reads what follows an opening parenthesis.
func (p *patternParser) group() expr {
	fold, dot := p.fold, p.dot
	defer func() { p.fold, p.dot = fold, dot }()
	wrap, closed := p.groupKind()
	e := p.alternation()
	if closed {
		return e
	}
	if p.err == nil && !p.eat(")") {
		p.fail("a group without an end")
	}
	return wrap(e)
}

// groupKind reads what kind of group it is. closed says that it is options alone,
// which hold to the end of the group around.
func (p *patternParser) groupKind() (wrap func(expr) expr, closed bool) {
	plain := func(e expr) expr { return e }
	switch {
	case !strings.HasPrefix(p.rest(), "?"), p.eat("?:"):
		return plain, false
	case p.eat("?="):
		return func(e expr) expr { return look{sub: e} }, false
	case p.eat("?!"):
		return func(e expr) expr { return look{sub: e, negate: true} }, false
	case p.eat("?<="):
		return func(e expr) expr { return look{sub: e, behind: true} }, false
	case p.eat("?<!"):
		return func(e expr) expr { return look{sub: e, behind: true, negate: true} }, false
	case p.eat("?>"):
		return func(e expr) expr { return atomic{e} }, false
	}
	return plain, p.options()
}

// options reads "?im-im:", or "?im-im)", of which it reports that it is closed.
func (p *patternParser) options() (closed bool) {
	begin := p.at
	on := true
	for p.at++; p.err == nil; {
		switch r := p.next(); r {
		case 'i':
			p.fold = on
		case 'm':
			p.dot = on
		case '-':
			on = false
		case ':', ')':
			return r == ')'
		default:
			p.at = begin
			p.fail("the group (%.3s… is not supported", p.rest())
		}
	}
	return false
}

// escape reads what follows a backslash outside a class.
func (p *patternParser) escape() expr {
	if p.at == len(p.text) {
		p.fail("a backslash at the end")
		return nil
	}
	switch p.rest()[0] {
	case 'A':
		return p.anchor(textBegin)
	case 'z':
		return p.anchor(textEnd)
	case 'Z':
		return p.anchor(textEndNewline)
	case 'b':
		return p.anchor(wordEdge)
	case 'B':
		return p.anchor(notWordEdge)
	}
	set, single := p.classEscape()
	if single >= 0 {
		return p.literal(single)
	}
	return oneOf{set}
}

func (p *patternParser) anchor(kind anchorKind) expr {
	p.at++
	return anchor{kind}
}
