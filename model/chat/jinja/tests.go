package jinja

import (
	"math/big"
	"unicode"
)

// tests are Jinja's.
var tests map[string]func(m *machine, v Value, a *args) bool

func init() { //nolint:gochecknoinits // the test named test asks for tests: a cycle of initialisation
	tests = map[string]func(m *machine, v Value, a *args) bool{
		"boolean":   kindTest(func(v Value) bool { _, ok := v.(bool); return ok }),
		"callable":  kindTest(callable),
		"defined":   kindTest(func(v Value) bool { return !isUndefined(v) }),
		"undefined": kindTest(isUndefined),
		"escaped":   kindTest(func(v Value) bool { _, ok := v.(markup); return ok }),
		"false":     kindTest(func(v Value) bool { return v == false }),
		"true":      kindTest(func(v Value) bool { return v == true }),
		"float":     kindTest(isFloat),
		"integer":   kindTest(isInteger),
		"none":      kindTest(func(v Value) bool { return v == nil }),
		"number":    kindTest(func(v Value) bool { _, ok := asFloat(v); return ok }),
		"mapping":   kindTest(func(v Value) bool { _, ok := v.(*Dict); return ok }),
		"string":    kindTest(func(v Value) bool { _, ok := asString(v); return ok }),
		"iterable":  kindTest(iterable),
		"sequence":  kindTest(sequential),
		"lower":     caseTest(lower),
		"upper":     caseTest(upper),
		"even":      func(m *machine, v Value, a *args) bool { return m.divides(v, int64(2)) },
		"odd":       func(m *machine, v Value, a *args) bool { return !m.divides(v, int64(2)) },
		"divisibleby": func(m *machine, v Value, a *args) bool {
			return m.divides(v,
				a.bind("divisibleby", "num").need("num"))
		},
		"in": func(m *machine, v Value, a *args) bool {
			return m.contains(a.bind("in", "seq").need("seq"),
				v)
		},
		"sameas": func(m *machine, v Value, a *args) bool {
			return same(v,
				a.bind("sameas", "other").need("other"))
		},
		"filter": func(m *machine, v Value, a *args) bool { _, ok := filters[m.str(v)]; return ok },
		"test":   func(m *machine, v Value, a *args) bool { _, ok := tests[m.str(v)]; return ok },
	}
	for op, names := range map[string][]string{
		"==": {"==", "eq", "equalto"}, "!=": {"!=", "ne"}, "<": {"<", "lt", "lessthan"},
		"<=": {"<=", "le"}, ">": {">", "gt", "greaterthan"}, ">=": {">=", "ge"},
	} {
		for _, n := range names {
			tests[n] = func(m *machine, v Value, a *args) bool {
				return m.compare(op, v,
					a.bind(n, "other").need("other"))
			}
		}
	}
}

func caseTest(to func(string) string) func(*machine, Value, *args) bool {
	return func(m *machine, v Value, _ *args) bool {
		s := m.str(v)
		m.scan(caseWork * len(s))
		return cased(s) && s == to(s)
	}
}

func kindTest(is func(Value) bool) func(*machine, Value, *args) bool {
	return func(_ *machine, v Value, a *args) bool {
		a.bind("the test")
		return is(v)
	}
}

func isUndefined(v Value) bool {
	_, ok := v.(*Undefined)
	return ok
}

func isInteger(v Value) bool {
	switch v.(type) {
	case int64, *big.Int:
		return true
	}
	return false
}

func callable(v Value) bool {
	switch v.(type) {
	case *macro, *function, *joiner, *loop, *Undefined:
		return true
	}
	return false
}

func iterable(v Value) bool {
	switch v.(type) {
	case string, markup, *List, tuple, *Dict, *view, *generator, numbers, *Undefined, *loop:
		return true
	}
	return false
}

func sequential(v Value) bool {
	switch v.(type) {
	case string, markup, *List, tuple, *Dict, numbers, *Undefined:
		return true
	}
	return false
}

func (m *machine) divides(v, by Value) bool {
	return m.equal(m.operate("%", v, by), int64(0))
}

// same is "a is b". Numbers and strings are taken to be one where they are equal
// and of one type.
func same(a, b Value) bool {
	switch a := a.(type) {
	case tuple:
		return false
	case *big.Int:
		return false
	case *Undefined, *List, *Dict:
		return a == b
	}
	if _, ok := b.(tuple); ok {
		return false
	}
	return a == b
}

func isAlphanumeric(r rune) bool { return unicode.IsLetter(r) || unicode.IsNumber(r) }
