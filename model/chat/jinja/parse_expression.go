package jinja

import (
	"math/big"
	"strconv"
	"strings"
)

// tuple reads an expression, or several with commas between.
func (p *parser) tuple() expression { return p.tupleOf(p.expression, "") }

// tupleOf reads as tuple does. A closing parenthesis or the name end ends it, and
// a parenthesis may come at once.
func (p *parser) tupleOf(one func() expression, end string) expression {
	var items []expression
	for !p.tupleEnds() && (end == "" || !p.isName(end)) {
		items = append(items, one())
		if !p.eatOperator(",") {
			if len(items) == 1 {
				return items[0]
			}
			return tupleExpr{items}
		}
	}
	if len(items) == 0 && !p.isOperator(")") {
		p.fail("want an expression, got %s", p.token())
	}
	return tupleExpr{items}
}

func (p *parser) tupleEnds() bool {
	switch p.token().kind {
	case tokenVariableEnd, tokenBlockEnd, tokenEOF:
		return true
	}
	return p.isOperator(")")
}

// expression reads one, conditionals among them.
func (p *parser) expression() expression {
	defer p.nest()()
	e := p.or()
	for p.eatName("if") {
		test := p.or()
		var otherwise expression
		if p.eatName("else") {
			otherwise = p.expression()
		}
		e = conditional{test, e, otherwise}
	}
	return e
}

func (p *parser) or() expression {
	e := p.and()
	for p.eatName("or") {
		e = logical{false, e, p.and()}
	}
	return e
}

func (p *parser) and() expression {
	e := p.not()
	for p.eatName("and") {
		e = logical{true, e, p.not()}
	}
	return e
}

func (p *parser) not() expression {
	if p.eatName("not") {
		defer p.nest()()
		return notExpr{p.not()}
	}
	return p.compare()
}

func (p *parser) compare() expression {
	first := p.sum()
	var rest []operand
	for {
		op := p.comparison()
		if op == "" {
			break
		}
		rest = append(rest, operand{op, p.sum()})
	}
	if rest == nil {
		return first
	}
	return comparison{first, rest}
}

// comparison reads a comparison's operator, where one is here.
func (p *parser) comparison() string {
	for _, op := range []string{"==", "!=", "<", "<=", ">", ">="} {
		if p.eatOperator(op) {
			return op
		}
	}
	if p.eatName("in") {
		return "in"
	}
	if p.isName("not") && p.tokens[p.at+1].kind == tokenName && p.tokens[p.at+1].text == "in" {
		p.at += 2
		return "not in"
	}
	return ""
}

// leftAssociative reads operands with the operators between.
func (p *parser) leftAssociative(operand func() expression, operators ...string) expression {
	e := operand()
	for {
		op := ""
		for _, o := range operators {
			if p.eatOperator(o) {
				op = o
				break
			}
		}
		if op == "" {
			return e
		}
		e = binary{op, e, operand()}
	}
}

func (p *parser) sum() expression { return p.leftAssociative(p.concatenation, "+", "-") }

func (p *parser) concatenation() expression {
	parts := []expression{p.product()}
	for p.eatOperator("~") {
		parts = append(parts, p.product())
	}
	if len(parts) == 1 {
		return parts[0]
	}
	return concat{parts}
}

func (p *parser) product() expression { return p.leftAssociative(p.power, "*", "//", "/", "%") }

func (p *parser) power() expression {
	return p.leftAssociative(func() expression { return p.unary(true) }, "**")
}

// unary reads an operand; filters says whether it may have filters and tests.
func (p *parser) unary(filters bool) expression {
	defer p.nest()()
	var e expression
	switch {
	case p.eatOperator("-"):
		e = unary{"-", p.unary(false)}
	case p.eatOperator("+"):
		e = unary{"+", p.unary(false)}
	default:
		e = p.primary()
	}
	e = p.postfix(e)
	if filters {
		e = p.filterExpression(e)
	}
	return e
}

func (p *parser) primary() expression {
	t := p.token()
	switch t.kind {
	case tokenName:
		p.at++
		return p.named(t.text)
	case tokenString:
		return constant{p.strings()}
	case tokenInteger:
		p.at++
		return constant{p.integer(t.text)}
	case tokenFloat:
		p.at++
		f, err := strconv.ParseFloat(t.text, 64)
		if err != nil {
			p.fail("the number %s: %v", t.text, err)
		}
		return constant{f}
	}
	switch {
	case p.eatOperator("("):
		e := p.tuple()
		p.wantOperator(")")
		return e
	case p.eatOperator("["):
		return listExpr{p.items("]")}
	case p.eatOperator("{"):
		return p.dict()
	}
	p.fail("want an expression, got %s", t)
	return nil
}

// named is a constant or a variable.
func (p *parser) named(text string) expression {
	switch text {
	case "true", "True":
		return constant{true}
	case "false", "False":
		return constant{false}
	case "none", "None":
		return constant{nil}
	}
	for _, m := range p.macros {
		m.note(text)
	}
	return name{text}
}

// note records that a macro's body mentions a name.
func (m *macroCode) note(name string) {
	switch name {
	case "varargs":
		m.varargs = true
	case "kwargs":
		m.kwargs = true
	case "caller":
		m.caller = true
	}
}

// strings reads strings that stand side by side, which are one.
func (p *parser) strings() string {
	var all strings.Builder
	for p.token().kind == tokenString {
		all.WriteString(p.take().text)
	}
	return all.String()
}

func (p *parser) integer(text string) Value {
	if len(text) > maxDigits {
		p.fail("an integer of %d digits; at most %d are taken", len(text), maxDigits)
	}
	i, ok := new(big.Int).SetString(text, 0)
	if !ok { // zeros in front
		i, ok = new(big.Int).SetString(text, 10)
	}
	if !ok {
		p.fail("the number %s", text)
	}
	return integer64(i)
}

// items reads expressions up to a closing bracket.
func (p *parser) items(end string) []expression {
	var items []expression
	for !p.eatOperator(end) {
		if len(items) > 0 {
			p.wantOperator(",")
			if p.eatOperator(end) {
				break
			}
		}
		items = append(items, p.expression())
	}
	return items
}

func (p *parser) dict() expression {
	d := dictExpr{}
	for !p.eatOperator("}") {
		if len(d.keys) > 0 {
			p.wantOperator(",")
			if p.eatOperator("}") {
				break
			}
		}
		d.keys = append(d.keys, p.expression())
		p.wantOperator(":")
		d.values = append(d.values, p.expression())
	}
	return d
}

// postfix reads attributes, subscripts and calls.
func (p *parser) postfix(e expression) expression {
	for {
		switch {
		case p.eatOperator("."):
			e = p.attribute(e)
		case p.eatOperator("["):
			e = subscript{e, p.subscripts()}
		case p.isOperator("("):
			e = p.call(e)
		default:
			return e
		}
	}
}

func (p *parser) attribute(e expression) expression {
	switch t := p.take(); t.kind {
	case tokenName:
		return attribute{e, t.text}
	case tokenInteger:
		return subscript{e, constant{p.integer(t.text)}}
	}
	p.at--
	p.fail("want an attribute's name, got %s", p.token())
	return nil
}

// subscripts reads what is in the brackets of a subscript.
func (p *parser) subscripts() expression {
	var keys []expression
	for {
		keys = append(keys, p.slice())
		if !p.eatOperator(",") {
			break
		}
	}
	p.wantOperator("]")
	if len(keys) == 1 {
		return keys[0]
	}
	return tupleExpr{keys}
}

func (p *parser) slice() expression {
	var s sliceExpr
	if !p.isOperator(":") {
		e := p.expression()
		if !p.isOperator(":") {
			return e
		}
		s.start = e
	}
	p.wantOperator(":")
	s.stop = p.bound()
	if p.eatOperator(":") {
		s.step = p.bound()
	}
	return s
}

// bound reads a slice's bound, nil where it is left out.
func (p *parser) bound() expression {
	if p.isOperator(":") || p.isOperator("]") || p.isOperator(",") {
		return nil
	}
	return p.expression()
}

func (p *parser) call(callee expression) expression {
	line := p.token().line
	return &call{callee, p.arguments(), line}
}

// arguments reads a call's arguments with their parentheses.
func (p *parser) arguments() arguments {
	var a arguments
	p.wantOperator("(")
	for first := true; !p.eatOperator(")"); first = false {
		if !first {
			p.wantOperator(",")
			if p.eatOperator(")") {
				break
			}
		}
		p.argument(&a)
	}
	return a
}

func (p *parser) argument(a *arguments) {
	switch {
	case p.eatOperator("**"):
		if a.keword != nil {
			p.fail("a second **argument")
		}
		a.keword = p.expression()
	case p.eatOperator("*"):
		if a.list != nil || a.keword != nil {
			p.fail("an *argument behind another")
		}
		a.list = p.expression()
	case p.token().kind == tokenName && p.tokens[p.at+1].kind == tokenOperator && p.tokens[p.at+1].text == "=":
		if a.keword != nil {
			p.fail("a named argument behind a **argument")
		}
		a.names = append(a.names, p.take().text)
		p.at++
		a.named = append(a.named, p.expression())
	default:
		if a.names != nil || a.list != nil || a.keword != nil {
			p.fail("a positional argument behind another kind")
		}
		a.positional = append(a.positional, p.expression())
	}
}

// filterExpression reads filters, tests and calls of what they give.
func (p *parser) filterExpression(e expression) expression {
	for {
		switch {
		case p.isOperator("|"):
			e = p.filters(e, false)
		case p.eatName("is"):
			e = p.test(e)
		case p.isOperator("("):
			e = p.call(e)
		default:
			return e
		}
	}
}

// filters reads |filter|filter…; bare says that the first bar is left out.
func (p *parser) filters(e expression, bare bool) expression {
	for bare || p.eatOperator("|") {
		bare = false
		line := p.token().line
		f := filterExpr{value: e, name: p.dotted(), line: line}
		if p.isOperator("(") {
			f.args = p.arguments()
		}
		e = f
	}
	return e
}

func (p *parser) dotted() string {
	n := p.wantName()
	for p.eatOperator(".") {
		n += "." + p.wantName()
	}
	return n
}

func (p *parser) test(e expression) expression {
	t := testExpr{value: e, line: p.token().line}
	t.negate = p.eatName("not")
	t.name = p.dotted()
	switch {
	case p.isOperator("("):
		t.args = p.arguments()
	case p.testArgument():
		if p.isName("is") {
			p.fail("a test of a test")
		}
		t.args.positional = []expression{p.postfix(p.primary())}
	}
	return t
}

// testArgument reports whether an argument without parentheses is here.
func (p *parser) testArgument() bool {
	switch t := p.token(); t.kind {
	case tokenName:
		return !p.isName("else", "or", "and")
	case tokenString, tokenInteger, tokenFloat:
		return true
	case tokenOperator:
		return t.text == "[" || t.text == "{"
	}
	return false
}
