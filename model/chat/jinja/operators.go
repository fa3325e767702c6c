package jinja

import (
	"cmp"
	"math"
	"math/big"
	"strings"
)

// operate is a binary operator's value.
func (m *machine) operate(op string, a, b Value) Value {
	if u := undefinedOf(a, b); u != nil {
		u.raise()
	}
	if s, ok := a.(string); ok && op == "%" {
		return m.percent(s, b)
	}
	if op == "+" {
		if v, ok := m.add(a, b); ok {
			return v
		}
	}
	if op == "*" {
		if v, ok := m.times(a, b); ok {
			return v
		}
		if v, ok := m.times(b, a); ok {
			return v
		}
	}
	if v, ok := arithmetic(op, a, b); ok {
		return v
	}
	if _, isString := asString(a); isString && op == "+" {
		raise(`can only concatenate str (not "%s") to str`, typeName(b))
	}
	raise("unsupported operand type(s) for %s: '%s' and '%s'", op, typeName(a), typeName(b))
	return nil
}

func undefinedOf(values ...Value) *Undefined {
	for _, v := range values {
		if u, ok := v.(*Undefined); ok {
			return u
		}
	}
	return nil
}

// escape is a string's HTML, counted before it is made: a character becomes five
// at most.
func (m *machine) escape(s string) string {
	m.scan(4 * len(s))
	m.hold(5 * len(s))
	return escapeHTML.Replace(s)
}

// add joins strings, lists and tuples.
func (m *machine) add(a, b Value) (Value, bool) {
	switch a := a.(type) {
	case string:
		if mb, ok := b.(markup); ok {
			return markup(m.join(m.escape(a), string(mb))), true
		}
		if sb, ok := b.(string); ok {
			return m.join(a, sb), true
		}
	case markup:
		if mb, ok := b.(markup); ok {
			return markup(m.join(string(a), string(mb))), true
		}
		if sb, ok := b.(string); ok {
			return markup(m.join(string(a), m.escape(sb))), true
		}
	case *List:
		if lb, ok := b.(*List); ok {
			m.use(int64(len(a.Items)+len(lb.Items)) * valueSize)
			return &List{append(append([]Value{}, a.Items...), lb.Items...)}, true
		}
	case tuple:
		if tb, ok := b.(tuple); ok {
			m.use(int64(len(a)+len(tb)) * valueSize)
			return append(append(tuple{}, a...), tb...), true
		}
	}
	return nil, false
}

// join concatenates strings, and counts the result.
func (m *machine) join(parts ...string) string {
	n := 0
	for _, p := range parts {
		n += len(p)
	}
	m.use(int64(n))
	return strings.Join(parts, "")
}

// times repeats a string, list or tuple.
func (m *machine) times(a, count Value) (Value, bool) {
	n, ok := asInt(count)
	if !ok {
		return nil, false
	}
	n = max(n, 0)
	switch a := a.(type) {
	case string, markup:
		s, _ := asString(a)
		m.useTimes(n, int64(len(s)))
		return sameKind(a, strings.Repeat(s, int(n))), true
	case *List:
		m.useTimes(n, int64(len(a.Items))*valueSize)
		return &List{repeated(a.Items, n)}, true
	case tuple:
		m.useTimes(n, int64(len(a))*valueSize)
		return tuple(repeated(a, n)), true
	}
	return nil, false
}

func repeated(items []Value, n int64) []Value {
	out := make([]Value, 0, int64(len(items))*n)
	if len(items) > 0 {
		for range n {
			out = append(out, items...)
		}
	}
	return out
}

// sameKind makes a string a markup where v is one.
func sameKind(v Value, s string) Value {
	if _, ok := v.(markup); ok {
		return markup(s)
	}
	return s
}

// asInt returns an integer, a bool among them.
func asInt(v Value) (int64, bool) {
	switch v := v.(type) {
	case int64:
		return v, true
	case bool:
		return boolInt(v), true
	}
	return 0, false
}

// asFloat returns a number.
func asFloat(v Value) (float64, bool) {
	switch v := v.(type) {
	case float64:
		return v, true
	case *big.Int:
		f, _ := new(big.Float).SetInt(v).Float64()
		return f, true
	}
	i, ok := asInt(v)
	return float64(i), ok
}

func isFloat(v Value) bool {
	_, ok := v.(float64)
	return ok
}

// bigInt returns an integer of any size.
func bigInt(v Value) (*big.Int, bool) {
	if b, ok := v.(*big.Int); ok {
		return b, true
	}
	i, ok := asInt(v)
	return big.NewInt(i), ok
}

// arithmetic is an operator's value for two numbers.
func arithmetic(op string, a, b Value) (Value, bool) {
	ia, okA := bigInt(a)
	ib, okB := bigInt(b)
	if okA && okB && op != "/" && !(op == "**" && ib.Sign() < 0) {
		return integer64(integers(op, ia, ib)), true
	}
	fa, okA := asFloat(a)
	fb, okB := asFloat(b)
	if !okA || !okB {
		return nil, false
	}
	return floats(op, fa, fb), true
}

// maxBits bounds integers.
const maxBits = 4096

// maxDigits bounds integers that are read.
const maxDigits = 1200

func integers(op string, a, b *big.Int) *big.Int {
	out := new(big.Int)
	switch op {
	case "+":
		out.Add(a, b)
	case "-":
		out.Sub(a, b)
	case "*":
		out.Mul(a, b)
	case "//", "%":
		return divide(op, a, b)
	case "**":
		if a.BitLen() > 1 && (b.BitLen() > 16 || int64(a.BitLen())*b.Int64() > maxBits) {
			raise("an integer has more than %d bits", maxBits)
		}
		out.Exp(a, b, nil)
	}
	if out.BitLen() > maxBits {
		raise("an integer has more than %d bits", maxBits)
	}
	return out
}

// divide rounds down, as Python does.
func divide(op string, a, b *big.Int) *big.Int {
	if b.Sign() == 0 {
		raise("integer division or modulo by zero")
	}
	quotient, rest := new(big.Int).QuoRem(a, b, new(big.Int))
	if rest.Sign() != 0 && rest.Sign() != b.Sign() {
		quotient.Sub(quotient, big.NewInt(1))
		rest.Add(rest, b)
	}
	if op == "%" {
		return rest
	}
	return quotient
}

func floats(op string, a, b float64) Value {
	if b == 0 && strings.Contains("/ // %", op) {
		raise("division by zero")
	}
	switch op {
	case "+":
		return a + b
	case "-":
		return a - b
	case "*":
		return a * b
	case "/":
		return a / b
	case "//":
		return math.Floor((a - modulo(a, b)) / b)
	case "%":
		return modulo(a, b)
	}
	return math.Pow(a, b)
}

// modulo has the sign of b, as Python's.
func modulo(a, b float64) float64 {
	r := math.Mod(a, b)
	if r != 0 && (r < 0) != (b < 0) {
		r += b
	}
	return r
}

// equal is a == b.
func (m *machine) equal(a, b Value) bool {
	defer m.enter()()
	if sa, ok := asString(a); ok {
		sb, ok := asString(b)
		if !ok || len(sa) != len(sb) {
			return false
		}
		m.scan(len(sa) / 4)
		return sa == sb
	}
	if c, ok := compareNumbers(a, b); ok {
		return c == 0
	}
	switch a := a.(type) {
	case *List:
		lb, ok := b.(*List)
		return ok && m.equalItems(a.Items, lb.Items)
	case tuple:
		tb, ok := b.(tuple)
		return ok && m.equalItems(a, tb)
	case *Dict:
		db, ok := b.(*Dict)
		return ok && m.equalDicts(a, db)
	case *Undefined:
		_, ok := b.(*Undefined)
		return ok
	}
	return a == b
}

func (m *machine) equalItems(a, b []Value) bool {
	if len(a) != len(b) {
		return false
	}
	for i := range a {
		if !m.equal(a[i], b[i]) {
			return false
		}
	}
	return true
}

func (m *machine) equalDicts(a, b *Dict) bool {
	if a.Len() != b.Len() {
		return false
	}
	for i, k := range a.keys {
		v, ok := b.get(m, k)
		if !ok || !m.equal(a.values[i], v) {
			return false
		}
	}
	return true
}

// compareNumbers compares two numbers. Not-a-number is not equal to any.
func compareNumbers(a, b Value) (int, bool) {
	ia, okA := bigInt(a)
	ib, okB := bigInt(b)
	if okA && okB {
		return ia.Cmp(ib), true
	}
	fa, okA := asFloat(a)
	fb, okB := asFloat(b)
	if !okA || !okB {
		return 0, false
	}
	if math.IsNaN(fa) || math.IsNaN(fb) {
		return 2, true
	}
	return cmp.Compare(fa, fb), true
}

// order compares two values for < and the like; it raises where Python cannot.
func (m *machine) order(op string, a, b Value) int {
	if u := undefinedOf(a, b); u != nil {
		u.raise()
	}
	m.spend(stepWork)
	if c, ok := compareNumbers(a, b); ok {
		return c
	}
	sa, okA := asString(a)
	sb, okB := asString(b)
	if okA && okB {
		m.scan(min(len(sa), len(sb)) / 4)
		return strings.Compare(sa, sb)
	}
	itemsA, okA := sequenceOf(a)
	itemsB, okB := sequenceOf(b)
	if okA && okB && typeName(a) == typeName(b) {
		return m.orderItems(op, itemsA, itemsB)
	}
	raise("'%s' not supported between instances of '%s' and '%s'", op, typeName(a), typeName(b))
	return 0
}

func (m *machine) orderItems(op string, a, b []Value) int {
	for i := range min(len(a), len(b)) {
		if !m.equal(a[i], b[i]) {
			return m.order(op, a[i], b[i])
		}
	}
	return cmp.Compare(len(a), len(b))
}

// sequenceOf returns the items of a list or tuple.
func sequenceOf(v Value) ([]Value, bool) {
	switch v := v.(type) {
	case *List:
		return v.Items, true
	case tuple:
		return v, true
	}
	return nil, false
}

// compare is a comparison's value.
func (m *machine) compare(op string, a, b Value) bool {
	switch op {
	case "==":
		return m.equal(a, b)
	case "!=":
		return !m.equal(a, b)
	case "in":
		return m.contains(b, a)
	case "not in":
		return !m.contains(b, a)
	}
	c := m.order(op, a, b)
	switch op {
	case "<":
		return c == -1
	case "<=":
		return c == -1 || c == 0
	case ">":
		return c == 1
	}
	return c == 1 || c == 0
}

// contains is item in container.
func (m *machine) contains(container, item Value) bool {
	if s, ok := asString(container); ok {
		part, ok := asString(item)
		if !ok {
			raise("'in <string>' requires string as left operand, not %s", typeName(item))
		}
		m.scan(len(s) + len(part))
		return strings.Contains(s, part)
	}
	if d, ok := container.(*Dict); ok {
		_, ok := d.get(m, item)
		return ok
	}
	items, ok := m.iterate(container)
	if !ok {
		raise("argument of type '%s' is not iterable", typeName(container))
	}
	for _, v := range items {
		if m.equal(v, item) {
			return true
		}
	}
	return false
}
