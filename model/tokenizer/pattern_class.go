package tokenizer

import (
	"strconv"
	"strings"
	"unicode/utf8"
)

// class reads what follows an opening bracket. As in Ruby a bracket inside is a
// union, and && an intersection, which binds weaker than union.
func (p *patternParser) class() spans {
	if p.depth++; p.depth > maxNesting {
		p.fail("nested deeper than %d", maxNesting)
	}
	defer func() { p.depth-- }()
	negate := p.eat("^")
	set := p.classUnion(true)
	for p.eat("&&") {
		set = set.intersect(p.classUnion(false))
	}
	if p.err == nil && !p.eat("]") {
		p.fail("a class without an end")
	}
	if p.fold {
		set = set.fold()
	}
	if negate {
		return set.complement()
	}
	return set
}

// classUnion reads members up to the class's end or an intersection. A closing
// bracket that comes first is a member.
func (p *patternParser) classUnion(first bool) spans {
	var members []spans
	for p.at < len(p.text) {
		if strings.HasPrefix(p.rest(), "&&") || p.rest()[0] == ']' && !first {
			break
		}
		members = append(members, p.classMember())
		first = false
	}
	return union(members...)
}

func (p *patternParser) classMember() spans {
	if p.eat("[:") {
		return p.posix()
	}
	if p.eat("[") {
		return p.class()
	}
	set, lo := p.classItem()
	if lo < 0 {
		return set
	}
	if !strings.HasPrefix(p.rest(), "-") || strings.HasPrefix(p.rest(), "-]") {
		return spans{{lo, lo}}
	}
	p.at++
	_, hi := p.classItem()
	if hi < lo {
		p.fail("a range that does not end at a character behind its first")
		return nil
	}
	return spans{{lo, hi}}
}

// classItem reads a set, or a single character: -1 where it is a set.
func (p *patternParser) classItem() (set spans, single rune) {
	if p.at == len(p.text) {
		p.fail("a class without an end")
		return nil, 0
	}
	if p.eat(`\`) {
		return p.classEscape()
	}
	return nil, p.next()
}

// posix reads what follows [: in a class.
func (p *patternParser) posix() spans {
	end := strings.Index(p.rest(), ":]")
	if end < 0 {
		p.fail("[: without :]")
		return nil
	}
	name := p.rest()[:end]
	p.at += end + 2
	return p.property(name)
}

// property returns a property by name, or what it is not where the name begins
// with ^.
func (p *patternParser) property(name string) spans {
	bare, negate := strings.CutPrefix(name, "^")
	set, ok := property(bare)
	if !ok {
		p.fail("the property %q is not known", name)
	}
	if negate {
		return set.complement()
	}
	return set
}

// classEscape reads what follows a backslash: a set, or a single character,
// which is -1 where it is a set.
func (p *patternParser) classEscape() (set spans, single rune) {
	if p.at == len(p.text) {
		p.fail("a backslash at the end")
		return nil, 0
	}
	switch r := p.next(); r {
	case 'd', 'D', 'w', 'W', 's', 'S', 'h', 'H':
		return shorthand(r), -1
	case 'p', 'P':
		return p.braced(r == 'P'), -1
	case 'x':
		return nil, p.hex()
	case 'u':
		return nil, p.hexDigits(4)
	default:
		if c, ok := controls[r]; ok {
			return nil, c
		}
		if r < utf8.RuneSelf && (r >= '0' && r <= '9' || r|0x20 >= 'a' && r|0x20 <= 'z') {
			p.fail("the escape \\%c is not supported", r)
		}
		return nil, r
	}
}

var controls = map[rune]rune{'t': '\t', 'n': '\n', 'r': '\r', 'f': '\f', 'v': '\v', 'a': '\a', 'e': 0x1B}

// shorthand returns the class of \d, \w, \s or \h (hexadecimal digits); of the
// capital letter the complement.
func shorthand(letter rune) spans {
	var set spans
	switch letter | 0x20 {
	case 'd':
		set = category("Nd")
	case 'w':
		set = wordClass()
	case 's':
		set = spaces()
	case 'h':
		set = hexDigits()
	}
	if letter < 'a' {
		return set.complement()
	}
	return set
}

// braced reads {NAME}.
func (p *patternParser) braced(negate bool) spans {
	end := strings.IndexByte(p.rest(), '}')
	if !p.eat("{") || end < 0 {
		p.fail("\\p without {a property}")
		return nil
	}
	name := p.text[p.at : p.at+end-1]
	p.at += end
	set := p.property(name)
	if negate {
		return set.complement()
	}
	return set
}

// hex reads HH or {H…}.
func (p *patternParser) hex() rune {
	if !p.eat("{") {
		return p.hexDigits(2)
	}
	end := strings.IndexByte(p.rest(), '}')
	if end < 0 {
		p.fail("\\x{ without an end")
		return 0
	}
	r := p.hexDigits(end)
	p.eat("}")
	return r
}

func (p *patternParser) hexDigits(n int) rune {
	if n > len(p.rest()) {
		p.fail("%d hexadecimal digits are missing", n)
		return 0
	}
	v, err := strconv.ParseUint(p.rest()[:n], 16, 32)
	if err != nil || v > maxRune {
		p.fail("%q is not a code point in hexadecimal", p.rest()[:n])
		return 0
	}
	p.at += n
	return rune(v)
}
