package jinja

import (
	"fmt"
	"strings"
	"unicode/utf8"
)

func (c constant) eval(*machine, *scope) Value { return c.value }

func (n name) eval(m *machine, s *scope) Value { return m.lookup(s, n.name) }

func (l listExpr) eval(m *machine, s *scope) Value { return &List{m.all(l.items, s)} }

func (t tupleExpr) eval(m *machine, s *scope) Value { return tuple(m.all(t.items, s)) }

func (m *machine) all(items []expression, s *scope) []Value {
	m.use(int64(len(items)) * valueSize)
	out := make([]Value, len(items))
	for i, e := range items {
		out[i] = m.eval(e, s)
	}
	return out
}

func (d dictExpr) eval(m *machine, s *scope) Value {
	m.use(int64(len(d.keys)) * 2 * valueSize)
	out := NewDict()
	for i, k := range d.keys {
		out.set(m, m.eval(k, s), m.eval(d.values[i], s))
	}
	return out
}

func (a attribute) eval(m *machine, s *scope) Value {
	return m.attribute(m.eval(a.object, s), a.name)
}

// attribute is object.name: an attribute of Python's, else an item.
func (m *machine) attribute(object Value, name string) Value {
	if u, ok := object.(*Undefined); ok {
		u.raise()
	}
	if v, ok := m.member(object, name); ok {
		return v
	}
	if d, ok := object.(*Dict); ok {
		if v, ok := d.Get(name); ok {
			return v
		}
	}
	return missing(object, name)
}

func missing(object Value, name string) Value {
	return &Undefined{fmt.Sprintf("'%s' object has no attribute '%s'", typeName(object), name)}
}

// member is an attribute that Python's object has.
func (m *machine) member(object Value, name string) (Value, bool) {
	switch o := object.(type) {
	case *loop:
		return o.attribute(name)
	case *namespace:
		return o.attrs.Get(name)
	case *macro:
		m.use(int64(len(o.code.params)) * valueSize)
		return o.attribute(name)
	case *cycler:
		return o.attribute(name)
	}
	return method(object, name)
}

func (c *macro) attribute(name string) (Value, bool) {
	switch name {
	case "name":
		return c.code.name, true
	case "arguments":
		params := make(tuple, len(c.code.params))
		for i, p := range c.code.params {
			params[i] = p
		}
		return params, true
	case "catch_kwargs":
		return c.code.kwargs, true
	case "catch_varargs":
		return c.code.varargs, true
	case "caller":
		return c.code.caller, true
	}
	return nil, false
}

func (c *cycler) attribute(name string) (Value, bool) {
	switch name {
	case "current":
		return c.items[c.at], true
	case "next":
		return &function{"next", func(*machine, *args) Value {
			v := c.items[c.at]
			c.at = (c.at + 1) % len(c.items)
			return v
		}}, true
	case "reset":
		return &function{"reset", func(*machine, *args) Value {
			c.at = 0
			return nil
		}}, true
	}
	return nil, false
}

func (sub subscript) eval(m *machine, s *scope) Value {
	object := m.eval(sub.object, s)
	if u, ok := object.(*Undefined); ok {
		u.raise()
	}
	if sl, ok := sub.key.(sliceExpr); ok {
		return sl.of(m, s, object)
	}
	return m.item(object, m.eval(sub.key, s))
}

// item is object[key]: an item, else an attribute of Python's.
func (m *machine) item(object, key Value) Value {
	if d, ok := object.(*Dict); ok {
		if v, ok := d.get(m, key); ok {
			return v
		}
	} else if i, ok := asInt(key); ok {
		if v, ok := m.at(object, i); ok {
			return v
		}
	}
	name, ok := asString(key)
	if !ok {
		return &Undefined{fmt.Sprintf("'%s' object has no element %s", typeName(object), m.repr(key))}
	}
	if v, ok := m.member(object, name); ok {
		return v
	}
	return missing(object, name)
}

// at returns an item by its place; places below 0 count from the end.
func (m *machine) at(object Value, i int64) (Value, bool) {
	if r, ok := object.(numbers); ok {
		return r.at(i)
	}
	if s, ok := asString(object); ok {
		return m.character(s, i)
	}
	items, _ := sequenceOf(object)
	n := int64(len(items))
	if i < 0 {
		i += n
	}
	if i < 0 || i >= n {
		return nil, false
	}
	return items[i], true
}

// character is s[i].
func (m *machine) character(s string, i int64) (Value, bool) {
	m.scan(len(s))
	if i < 0 {
		i += int64(utf8.RuneCountInString(s))
	}
	if i < 0 || i >= int64(len(s)) {
		return nil, false
	}
	s = s[runeOffset(s, int(i)):]
	_, size := utf8.DecodeRuneInString(s)
	return s[:size], size > 0
}

func (r numbers) at(i int64) (Value, bool) {
	if i < 0 {
		i += r.length()
	}
	if i < 0 || i >= r.length() {
		return nil, false
	}
	return r.start + i*r.step, true
}

func (sliceExpr) eval(*machine, *scope) Value {
	raise("a slice among other subscripts")
	return nil
}

// of is object[start:stop:step].
func (e sliceExpr) of(m *machine, s *scope, object Value) Value {
	step, given := e.bound(m, s, e.step)
	if !given {
		step = 1
	}
	if step == 0 {
		raise("slice step cannot be zero")
	}
	start, hasStart := e.bound(m, s, e.start)
	stop, hasStop := e.bound(m, s, e.stop)
	places := func(n int64) (from, to int64) {
		from, to = limits(n, step)
		if hasStart {
			from = clamp(start, n, step)
		}
		if hasStop {
			to = clamp(stop, n, step)
		}
		return from, to
	}
	if text, ok := asString(object); ok && step == 1 {
		return sameKind(object, m.substring(text, places))
	}
	return m.cut(object, func(items []Value) []Value {
		from, to := places(int64(len(items)))
		return stride(items, from, to, step)
	})
}

// substring is the part of s between two places, which are told how many
// characters it has.
func (m *machine) substring(s string, places func(n int64) (from, to int64)) string {
	m.scan(2 * len(s))
	from, to := places(int64(utf8.RuneCountInString(s)))
	if from >= to {
		return ""
	}
	s = s[runeOffset(s, int(from)):]
	return s[:runeOffset(s, int(to-from))]
}

// runeOffset is where the character n begins, or the end of s where it has none.
func runeOffset(s string, n int) int {
	for at := range s {
		if n == 0 {
			return at
		}
		n--
	}
	return len(s)
}

// cut applies a slice to what can be sliced.
func (m *machine) cut(object Value, cut func([]Value) []Value) Value {
	switch o := object.(type) {
	case *List:
		m.use(int64(len(o.Items)) * valueSize)
		return &List{cut(o.Items)}
	case tuple:
		m.use(int64(len(o)) * valueSize)
		return tuple(cut(o))
	case numbers:
		m.use(o.length() * valueSize)
		return tuple(cut(o.items()))
	}
	s, ok := asString(object)
	if !ok {
		raise("'%s' object is not subscriptable", typeName(object))
	}
	var out strings.Builder
	for _, c := range cut(m.characters(s)) {
		out.WriteString(c.(string))
	}
	return sameKind(object, out.String())
}

func (e sliceExpr) bound(m *machine, s *scope, bound expression) (int64, bool) {
	if bound == nil {
		return 0, false
	}
	switch v := m.eval(bound, s).(type) {
	case nil:
		return 0, false
	case int64:
		return max(min(v, 1<<40), -1<<40), true
	case bool:
		return boolInt(v), true
	default:
		raise("slice indices must be integers or None, not %s", typeName(v))
		return 0, false
	}
}

// limits are the bounds of a slice that has none.
func limits(n, step int64) (from, to int64) {
	if step < 0 {
		return n - 1, -1
	}
	return 0, n
}

// clamp makes a slice's bound a place.
func clamp(bound, n, step int64) int64 {
	if bound < 0 {
		bound += n
	}
	if step < 0 {
		return min(max(bound, -1), n-1)
	}
	return min(max(bound, 0), n)
}

func stride(items []Value, from, to, step int64) []Value {
	var out []Value
	for i := from; step > 0 && i < to || step < 0 && i > to; i += step {
		out = append(out, items[i])
	}
	return out
}

func (c *call) eval(m *machine, s *scope) Value {
	callee := m.eval(c.callee, s)
	return m.call(callee, m.arguments(c.args, s), c.line)
}

func (f filterExpr) eval(m *machine, s *scope) Value {
	return f.apply(m, s, m.eval(f.value, s))
}

func (f filterExpr) apply(m *machine, s *scope, v Value) Value {
	return m.filter(f.name, v, m.arguments(f.args, s), f.line)
}

// filter applies a filter by name.
func (m *machine) filter(name string, v Value, a *args, line int) Value {
	defer atLine(line)
	m.spend(stepWork)
	f, ok := filters[name]
	if !ok {
		raise("No filter named '%s'", name)
	}
	return f(m, v, a)
}

func (t testExpr) eval(m *machine, s *scope) Value {
	v := m.eval(t.value, s)
	return m.test(t.name, v, m.arguments(t.args, s), t.line) != t.negate
}

// test applies a test by name.
func (m *machine) test(name string, v Value, a *args, line int) bool {
	defer atLine(line)
	m.spend(stepWork)
	f, ok := tests[name]
	if !ok {
		raise("No test named '%s'", name)
	}
	return f(m, v, a)
}

func (c conditional) eval(m *machine, s *scope) Value {
	if truth(m.eval(c.test, s)) {
		return m.eval(c.then, s)
	}
	if c.otherwise == nil {
		return &Undefined{"the inline if-expression evaluated to false and no else section was defined"}
	}
	return m.eval(c.otherwise, s)
}

func (n notExpr) eval(m *machine, s *scope) Value { return !truth(m.eval(n.operand, s)) }

func (l logical) eval(m *machine, s *scope) Value {
	v := m.eval(l.left, s)
	if truth(v) == l.and {
		return m.eval(l.right, s)
	}
	return v
}

func (u unary) eval(m *machine, s *scope) Value {
	v := m.eval(u.operand, s)
	if undefined, ok := v.(*Undefined); ok {
		undefined.raise()
	}
	out, ok := arithmetic("-", int64(0), v)
	if f, isFloat := v.(float64); isFloat {
		out = -f
	}
	if !ok {
		raise("bad operand type for unary %s: '%s'", u.operator, typeName(v))
	}
	if u.operator == "+" {
		out, _ = arithmetic("+", int64(0), v)
	}
	return out
}

func (b binary) eval(m *machine, s *scope) Value {
	left := m.eval(b.left, s)
	return m.operate(b.operator, left, m.eval(b.right, s))
}

func (c concat) eval(m *machine, s *scope) Value {
	parts := make([]string, len(c.parts))
	for i, e := range c.parts {
		parts[i] = m.str(m.eval(e, s))
	}
	return m.join(parts...)
}

func (c comparison) eval(m *machine, s *scope) Value {
	left := m.eval(c.first, s)
	for _, o := range c.rest {
		right := m.eval(o.value, s)
		if !m.compare(o.operator, left, right) {
			return false
		}
		left = right
	}
	return true
}
