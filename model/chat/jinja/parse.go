package jinja

import (
	"fmt"
	"slices"
	"strings"
)

// maxNesting bounds how deep tags and expressions nest.
const maxNesting = 250

// parser reads statements from tokens. Its methods panic with *SyntaxError.
type parser struct {
	tokens []token
	at     int
	depth  int
	loops  int // that the parser is in
	// macros are those that the parser is in, the innermost last: what their
	// bodies ask for is noted.
	macros []*macroCode
}

func (p *parser) token() token { return p.tokens[p.at] }

func (p *parser) take() token {
	t := p.tokens[p.at]
	if t.kind != tokenEOF {
		p.at++
	}
	return t
}

func (p *parser) fail(format string, args ...any) {
	panic(&SyntaxError{p.token().line, fmt.Sprintf(format, args...)})
}

func (p *parser) is(kind tokenKind, text string) bool {
	t := p.token()
	return t.kind == kind && t.text == text
}

func (p *parser) isName(names ...string) bool {
	return p.token().kind == tokenName && slices.Contains(names, p.token().text)
}

func (p *parser) isOperator(text string) bool { return p.is(tokenOperator, text) }

func (p *parser) eat(kind tokenKind, text string) bool {
	if !p.is(kind, text) {
		return false
	}
	p.at++
	return true
}

func (p *parser) eatName(name string) bool   { return p.eat(tokenName, name) }
func (p *parser) eatOperator(op string) bool { return p.eat(tokenOperator, op) }

func (p *parser) want(kind tokenKind, text string) {
	if !p.eat(kind, text) {
		p.fail("want %q, got %s", text, p.token())
	}
}

func (p *parser) wantOperator(op string) { p.want(tokenOperator, op) }

func (p *parser) wantName() string {
	if p.token().kind != tokenName {
		p.fail("want a name, got %s", p.token())
	}
	return p.take().text
}

// nest counts how deep the parser is; the function that it returns leaves.
func (p *parser) nest() func() {
	if p.depth++; p.depth > maxNesting {
		p.fail("nested deeper than %d", maxNesting)
	}
	return func() { p.depth-- }
}

// body reads statements up to a tag that begins with one of the names, or, without
// any, to the end. It stops at the name.
func (p *parser) body(ends ...string) block {
	defer p.nest()()
	out := block{}
	for {
		switch t := p.token(); t.kind {
		case tokenEOF:
			if len(ends) > 0 {
				p.fail("the template ends before %s", strings.Join(ends, " or "))
			}
			return out
		case tokenData:
			out = append(out, text(p.take().text))
		case tokenVariableBegin:
			p.at++
			out = append(out, output{p.tuple()})
			p.want(tokenVariableEnd, "}}")
		default:
			p.want(tokenBlockBegin, "{%")
			if p.isName(ends...) {
				return out
			}
			out = append(out, p.statement())
		}
	}
}

// end reads the name that body stopped at, and the end of its tag.
func (p *parser) end(name string) {
	p.want(tokenName, name)
	p.endTag()
}

func (p *parser) endTag() { p.want(tokenBlockEnd, "%}") }

// tail reads the end of a tag and the statements up to an end tag.
func (p *parser) tail(end string) block {
	p.endTag()
	b := p.body(end)
	p.end(end)
	return b
}

// apart reads as tail does what is rendered by itself: loops around it cannot be
// left from there.
func (p *parser) apart(end string) block {
	loops := p.loops
	p.loops = 0
	b := p.tail(end)
	p.loops = loops
	return b
}

// statement reads a tag behind {%, and what belongs to it.
func (p *parser) statement() statement {
	t := p.token()
	name := p.wantName()
	switch name {
	case "if":
		return p.ifStatement()
	case "for":
		return p.forStatement()
	case "set":
		return p.setStatement()
	case "macro":
		return p.macroStatement()
	case "call":
		return p.callStatement()
	case "filter":
		f := p.filters(nil, true)
		return filterStmt{f, p.apart("endfilter")}
	case "with":
		return p.withStatement()
	case "generation":
		return scopeStmt{p.apart("endgeneration")}
	case "break", "continue":
		return p.loopControl(name)
	}
	panic(&SyntaxError{t.line, fmt.Sprintf("the tag %q is not supported", name)})
}

func (p *parser) loopControl(name string) statement {
	if p.loops == 0 {
		p.fail("%s outside of a loop", name)
	}
	p.endTag()
	if name == "break" {
		return breakStmt{}
	}
	return continueStmt{}
}

func (p *parser) ifStatement() statement {
	s := ifStmt{}
	for {
		s.tests = append(s.tests, p.tupleOf(p.or, ""))
		p.endTag()
		s.bodies = append(s.bodies, p.body("elif", "else", "endif"))
		switch {
		case p.eatName("elif"):
			continue
		case p.eatName("else"):
			s.otherwise = p.tail("endif")
		default:
			p.end("endif")
		}
		return s
	}
}

func (p *parser) forStatement() statement {
	s := forStmt{target: p.target(true)}
	p.want(tokenName, "in")
	s.iterable = p.tupleOf(p.or, "recursive")
	if p.eatName("if") {
		s.test = p.expression()
	}
	s.recursive = p.eatName("recursive")
	p.endTag()
	p.loops++
	s.body = p.body("endfor", "else")
	p.loops--
	if p.eatName("else") {
		s.otherwise = p.tail("endfor")
	} else {
		p.end("endfor")
	}
	return s
}

// target reads what is assigned to; plain says that only names are.
func (p *parser) target(plain bool) target {
	var parts []target
	for {
		parts = append(parts, p.singleTarget(plain))
		if !p.eatOperator(",") {
			break
		}
		if p.isOperator("=") || p.isName("in") || p.token().kind == tokenBlockEnd {
			return target{parts: parts}
		}
	}
	if len(parts) == 1 {
		return parts[0]
	}
	return target{parts: parts}
}

func (p *parser) singleTarget(plain bool) target {
	if p.eatOperator("(") {
		defer p.nest()()
		t := p.target(plain)
		p.wantOperator(")")
		return t
	}
	t := target{name: p.wantName()}
	if !plain && p.eatOperator(".") {
		t.attr = p.wantName()
	} else if slices.Contains(reserved, t.name) {
		p.fail("cannot assign to %q", t.name)
	}
	return t
}

// reserved names are constants.
var reserved = []string{"true", "false", "none", "True", "False", "None"}

func (p *parser) setStatement() statement {
	t := p.target(false)
	if p.eatOperator("=") {
		s := setStmt{t, p.tuple()}
		p.endTag()
		return s
	}
	if t.parts != nil {
		p.fail("a set block with several names")
	}
	var f expression
	if p.isOperator("|") {
		f = p.filters(nil, false)
	}
	return setBlock{t, f, p.apart("endset")}
}

// signature reads a macro's parameters.
func (p *parser) signature(m *macroCode) {
	p.wantOperator("(")
	for !p.eatOperator(")") {
		if len(m.params) > 0 {
			p.wantOperator(",")
		}
		m.params = append(m.params, p.wantName())
		if p.eatOperator("=") {
			m.defaults = append(m.defaults, p.expression())
		} else if len(m.defaults) > 0 {
			p.fail("a parameter without a default behind one with")
		}
	}
}

func (p *parser) macroStatement() statement {
	m := &macroCode{name: p.wantName()}
	p.signature(m)
	p.macroBody(m, "endmacro")
	return macroStmt{m}
}

// macroBody reads a macro's body and notes what it asks for.
func (p *parser) macroBody(m *macroCode, end string) {
	p.macros = append(p.macros, m)
	m.body = p.apart(end)
	p.macros = p.macros[:len(p.macros)-1]
}

func (p *parser) callStatement() statement {
	m := &macroCode{name: "caller"}
	if p.isOperator("(") {
		p.signature(m)
	}
	c, ok := p.expression().(*call)
	if !ok {
		p.fail("want a call")
	}
	p.macroBody(m, "endcall")
	return callStmt{c, m}
}

func (p *parser) withStatement() statement {
	s := withStmt{}
	for p.token().kind != tokenBlockEnd {
		if len(s.targets) > 0 {
			p.wantOperator(",")
		}
		s.targets = append(s.targets, p.singleTarget(true))
		p.wantOperator("=")
		s.values = append(s.values, p.expression())
	}
	s.body = p.tail("endwith")
	return s
}
