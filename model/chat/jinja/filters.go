package jinja

import (
	"cmp"
	"math"
	"math/big"
	"slices"
	"strconv"
	"strings"
	"unicode"
	"unicode/utf8"
)

// filters are Jinja's, and tojson as Hugging Face has it.
var filters map[string]func(m *machine, v Value, a *args) Value

func init() { //nolint:gochecknoinits // filters such as map call filters: a cycle of initialisation
	filters = map[string]func(m *machine, v Value, a *args) Value{
		"abs":        absFilter,
		"attr":       attrFilter,
		"batch":      batchFilter,
		"capitalize": textFilter("capitalize", capitalize),
		"center":     centerFilter,
		"count":      lengthFilter,
		"d":          defaultFilter,
		"default":    defaultFilter,
		"dictsort":   dictsortFilter,
		"e":          escapeFilter,
		"escape":     escapeFilter,
		"first":      firstFilter,
		"float":      floatFilter,
		"format":     formatFilter,
		"groupby":    groupbyFilter,
		"indent":     indentFilter,
		"int":        intFilter,
		"items":      itemsFilter,
		"join":       joinFilter,
		"last":       lastFilter,
		"length":     lengthFilter,
		"list":       func(m *machine, v Value, a *args) Value { a.bind("list"); return m.list(v) },
		"lower":      textFilter("lower", lower),
		"map":        mapFilter,
		"max":        extremeFilter("max", 1),
		"min":        extremeFilter("min", -1),
		"reject":     selectFilter("reject", false, false),
		"rejectattr": selectFilter("rejectattr", true, false),
		"replace":    replaceFilter,
		"reverse":    reverseFilter,
		"round":      roundFilter,
		"safe":       func(m *machine, v Value, a *args) Value { a.bind("safe"); return markup(m.str(v)) },
		"select":     selectFilter("select", false, true),
		"selectattr": selectFilter("selectattr", true, true),
		"sort":       sortFilter,
		"string":     stringFilter,
		"sum":        sumFilter,
		"title":      textFilter("title", titleFilter),
		"tojson":     toJSON,
		"trim":       trimFilter,
		"truncate":   truncateFilter,
		"unique":     uniqueFilter,
		"upper":      textFilter("upper", upper),
		"wordcount":  wordcountFilter,
	}
}

// caseWork is what a character's other case takes, as bytes that are looked at.
const caseWork = 16

func textFilter(name string, f func(string) string) func(*machine, Value, *args) Value {
	return func(m *machine, v Value, a *args) Value {
		a.bind(name)
		s := m.str(v)
		m.use(int64(len(s)))
		m.scan(caseWork * len(s))
		return sameKind(v, f(s))
	}
}

// titleFilter makes the first letter of each word a capital: words begin behind
// spaces, hyphens and opening brackets.
func titleFilter(s string) string {
	var out strings.Builder
	begin := true
	for _, r := range s {
		switch {
		case r < utf8.RuneSelf && begin:
			out.WriteRune(unicode.ToUpper(r))
		case r < utf8.RuneSelf:
			out.WriteRune(unicode.ToLower(r))
		case begin:
			out.WriteString(upper(string(r)))
		default:
			out.WriteString(lower(string(r)))
		}
		begin = IsSpace(r) || strings.ContainsRune("-({[<", r)
	}
	return out.String()
}

func (m *machine) list(v Value) *List {
	items := m.mustIterate(v)
	m.use(int64(len(items)) * valueSize)
	return &List{append([]Value{}, items...)}
}

func absFilter(m *machine, v Value, a *args) Value {
	a.bind("abs")
	if f, ok := v.(float64); ok {
		return math.Abs(f)
	}
	i, ok := bigInt(v)
	if !ok {
		raise("bad operand type for abs(): '%s'", typeName(v))
	}
	return integer64(new(big.Int).Abs(i))
}

func attrFilter(m *machine, v Value, a *args) Value {
	name := a.bind("attr", "name").text("name", "")
	mustDefine(v)
	if found, ok := m.member(v, name); ok {
		return found
	}
	return missing(v, name)
}

// batchFilter cuts into lists of a length; the last is filled up.
func batchFilter(m *machine, v Value, a *args) Value {
	b := a.bind("batch", "linecount", "fill_with")
	n := int(b.integer("linecount", 0))
	if n < 1 {
		raise("batch: linecount is %d", n)
	}
	return m.lazily(func() []Value {
		items := m.mustIterate(v)
		m.use(int64(len(items)) * valueSize)
		var out []Value
		for part := range slices.Chunk(items, n) {
			part = slices.Clone(part)
			if b.has("fill_with") {
				m.useTimes(int64(n), valueSize)
				for len(part) < n {
					part = append(part, b.value("fill_with", nil))
				}
			}
			out = append(out, &List{part})
		}
		return out
	})
}

func centerFilter(m *machine, v Value, a *args) Value {
	return m.pad(m.str(v), "center", a.bind("center", "width").count("width", 80), " ")
}

func lengthFilter(m *machine, v Value, a *args) Value {
	a.bind("length")
	if s, ok := asString(v); ok {
		m.scan(len(s))
	}
	n, ok := length(v)
	if !ok {
		raise("object of type '%s' has no len()", typeName(v))
	}
	return int64(n)
}

func defaultFilter(m *machine, v Value, a *args) Value {
	b := a.bind("default", "default_value", "boolean")
	_, undefined := v.(*Undefined)
	if undefined || b.flag("boolean", false) && !truth(v) {
		return b.value("default_value", "")
	}
	return v
}

// sortKey is what sorting compares: text without regard to case.
func (m *machine) sortKey(v Value, caseSensitive bool) Value {
	if s, ok := asString(v); ok && !caseSensitive {
		m.scan(caseWork * len(s))
		return lower(s)
	}
	return v
}

// sorted sorts by a key, stable also where it is reversed.
func (m *machine) sorted(items []Value, key func(Value) Value, reverse bool) []Value {
	type keyed struct{ key, value Value }
	list := make([]keyed, len(items))
	for i, v := range items {
		list[i] = keyed{key(v), v}
	}
	m.use(int64(len(items)) * 3 * valueSize)
	slices.SortStableFunc(list, func(x, y keyed) int {
		defer m.enter()()
		if reverse {
			return cmp.Compare(0, m.lessOrder(x.key, y.key))
		}
		return m.lessOrder(x.key, y.key)
	})
	out := make([]Value, len(items))
	for i, k := range list {
		out[i] = k.value
	}
	return out
}

// lessOrder orders as Python's sort does, which asks for < alone.
func (m *machine) lessOrder(a, b Value) int {
	if c := m.order("<", a, b); c != 2 {
		return c
	}
	return 0
}

func dictsortFilter(m *machine, v Value, a *args) Value {
	b := a.bind("dictsort", "case_sensitive", "by", "reverse")
	d, ok := v.(*Dict)
	if !ok {
		raise("dictsort: want dict, got %s", typeName(v))
	}
	place, ok := map[string]int{"key": 0, "value": 1}[b.text("by", "key")]
	if !ok {
		raise(`You can only sort by either "key" or "value"`)
	}
	m.use(int64(d.Len()) * 4 * valueSize)
	key := func(v Value) Value { return m.sortKey(v.(tuple)[place], b.flag("case_sensitive", false)) }
	return &List{m.sorted(pairs(d), key, b.flag("reverse", false))}
}

func escapeFilter(m *machine, v Value, a *args) Value {
	a.bind("escape")
	if s, ok := v.(markup); ok {
		return s
	}
	return markup(m.join(m.escape(m.str(v))))
}

func firstFilter(m *machine, v Value, a *args) Value {
	a.bind("first")
	if g, ok := v.(*generator); ok {
		if item, ok := g.next(); ok {
			return item
		}
	} else if item, ok := m.end(v, 0); ok {
		return item
	}
	return &Undefined{"No first item, sequence was empty."}
}

func lastFilter(m *machine, v Value, a *args) Value {
	a.bind("last")
	if _, ok := v.(*generator); ok {
		raise("'generator' object is not reversible")
	}
	if item, ok := m.end(v, -1); ok {
		return item
	}
	return &Undefined{"No last item, sequence was empty."}
}

// end is the first item (0) or the last (-1). It does not look at the others,
// where that can be.
func (m *machine) end(v Value, i int64) (Value, bool) {
	_, isText := asString(v)
	if _, ok := sequenceOf(v); ok || isText {
		return m.at(v, i)
	}
	items := m.mustIterate(v)
	if len(items) == 0 {
		return nil, false
	}
	if i < 0 {
		return items[len(items)-1], true
	}
	return items[0], true
}

func mustDefine(v Value) {
	if u, ok := v.(*Undefined); ok {
		u.raise()
	}
}

func floatFilter(m *machine, v Value, a *args) Value {
	otherwise := a.bind("float", "default").value("default", 0.0)
	mustDefine(v)
	if f, ok := asFloat(v); ok {
		return f
	}
	if s, ok := asString(v); ok {
		m.scan(len(s))
		if f, ok := parseFloat(s); ok {
			return f
		}
	}
	return otherwise
}

// parseFloat is Python's float of a string.
func parseFloat(s string) (float64, bool) {
	s = strings.TrimFunc(s, IsSpace)
	if strings.ContainsAny(s, "xXpP") {
		return 0, false
	}
	f, err := strconv.ParseFloat(s, 64)
	return f, err == nil || math.IsInf(f, 0)
}

func intFilter(m *machine, v Value, a *args) Value {
	b := a.bind("int", "default", "base")
	otherwise := b.value("default", int64(0))
	mustDefine(v)
	if f, ok := v.(float64); ok {
		if math.IsNaN(f) || math.IsInf(f, 0) {
			return otherwise
		}
		i, _ := big.NewFloat(math.Trunc(f)).Int(nil)
		return integer64(i)
	}
	if i, ok := bigInt(v); ok {
		return integer64(i)
	}
	s, ok := asString(v)
	if !ok {
		return otherwise
	}
	m.scan(len(s))
	return parseInt(s, b.count("base", 10), otherwise)
}

func parseInt(s string, base int, otherwise Value) Value {
	s = strings.TrimFunc(s, IsSpace)
	if base == 0 || base >= 2 && base <= 36 {
		digits := s
		for _, prefix := range map[int][]string{2: {"0b", "0B"}, 8: {"0o", "0O"}, 16: {"0x", "0X"}}[base] {
			digits = strings.TrimPrefix(digits, prefix)
		}
		if len(digits) <= maxDigits {
			if i, ok := new(big.Int).SetString(digits, base); ok {
				return integer64(i)
			}
		}
	}
	if f, ok := parseFloat(s); ok && !math.IsInf(f, 0) && !math.IsNaN(f) {
		i, _ := big.NewFloat(math.Trunc(f)).Int(nil)
		return integer64(i)
	}
	return otherwise
}

func formatFilter(m *machine, v Value, a *args) Value {
	if a.named.Len() > 0 && len(a.positional) > 0 {
		raise("can't handle positional and keyword arguments at the same time")
	}
	var operand Value = tuple(a.positional)
	if a.named.Len() > 0 {
		operand = a.named
	}
	return sameKind(v, m.percent(m.str(v), operand))
}

// getter returns what reads an attribute, such as "a.b.0", of an item.
func (m *machine) getter(path Value, otherwise Value) func(Value) Value {
	var parts []Value
	if s, ok := asString(path); ok {
		m.use(int64(strings.Count(s, ".")+1) * 4 * valueSize)
		for _, p := range strings.Split(s, ".") {
			if i, err := strconv.ParseInt(p, 10, 32); err == nil && p[0] != '-' && p[0] != '+' {
				parts = append(parts, i)
			} else {
				parts = append(parts, p)
			}
		}
	} else {
		parts = []Value{path}
	}
	return func(v Value) Value {
		for _, p := range parts {
			m.spend(stepWork)
			v = m.itemOf(v, p)
			if _, undefined := v.(*Undefined); undefined && otherwise != nil {
				v = otherwise
			}
		}
		return v
	}
}

func (m *machine) itemOf(v, key Value) Value {
	if u, ok := v.(*Undefined); ok {
		u.raise()
	}
	return m.item(v, key)
}

func groupbyFilter(m *machine, v Value, a *args) Value {
	b := a.bind("groupby", "attribute", "default", "case_sensitive")
	get := m.getter(b.need("attribute"), b.value("default", nil))
	key := func(v Value) Value { return m.sortKey(get(v), b.flag("case_sensitive", false)) }
	var out []Value
	var last *List
	var lastKey Value
	for _, item := range m.sorted(m.mustIterate(v), key, false) {
		k := key(item)
		if last == nil || !m.equal(k, lastKey) {
			last, lastKey = &List{}, k
			out = append(out, tuple{get(item), last})
		}
		last.Items = append(last.Items, item)
	}
	return &List{out}
}

func indentFilter(m *machine, v Value, a *args) Value {
	b := a.bind("indent", "width", "first", "blank")
	indent, isText := asString(b.value("width", int64(4)))
	if !isText {
		n := max(0, b.count("width", 4))
		m.use(int64(n))
		indent = strings.Repeat(" ", n)
	}
	text := mustString("indent", v)
	lines := m.splitIndented(text)
	m.useTimes(int64(len(lines)), int64(len(indent)))
	for i, line := range lines {
		if i > 0 && (line != "" || b.flag("blank", false)) {
			lines[i] = indent + line
		}
	}
	out := strings.Join(lines, "\n")
	if b.flag("first", false) {
		out = indent + out
	}
	m.use(int64(len(out)))
	return sameKind(v, out)
}

// splitIndented are the lines of a text to be indented.
func (m *machine) splitIndented(text string) []string {
	list := splitLines(m, text+"\n", &args{named: NewDict()}).(*List)
	lines := make([]string, len(list.Items))
	for i, v := range list.Items {
		lines[i] = v.(string)
	}
	return lines
}

func itemsFilter(m *machine, v Value, a *args) Value {
	a.bind("items")
	return m.lazily(func() []Value {
		switch d := v.(type) {
		case *Undefined:
			return nil
		case *Dict:
			m.use(int64(d.Len()) * 4 * valueSize)
			return pairs(d)
		}
		raise("Can only get item pairs from a mapping.")
		return nil
	})
}

func joinFilter(m *machine, v Value, a *args) Value {
	b := a.bind("join", "d", "attribute")
	items := m.mustIterate(v)
	get := func(v Value) Value { return v }
	if b.has("attribute") {
		get = m.getter(b.value("attribute", nil), nil)
	}
	m.use(int64(len(items)) * valueSize)
	parts := make([]string, len(items))
	for i, item := range items {
		parts[i] = m.str(get(item))
	}
	return m.joined(parts, m.str(b.value("d", "")))
}

func mapFilter(m *machine, v Value, a *args) Value {
	return m.lazily(func() []Value {
		if !truth(v) { // None, too
			return nil
		}
		f := m.mapper(a)
		items := m.mustIterate(v)
		m.use(int64(len(items)) * valueSize)
		out := make([]Value, len(items))
		for i, item := range items {
			out[i] = f(item)
		}
		return out
	})
}

// mapper is what the filter map does to an item: read an attribute, or apply a
// filter.
func (m *machine) mapper(a *args) func(Value) Value {
	if len(a.positional) == 0 {
		b := a.bind("map", "attribute", "default")
		return m.getter(b.need("attribute"), b.value("default", nil))
	}
	name := mustString("map", a.positional[0])
	rest := &args{a.positional[1:], a.named}
	return func(v Value) Value { return m.filter(name, v, rest, 0) }
}

func extremeFilter(name string, sign int) func(*machine, Value, *args) Value {
	return func(m *machine, v Value, a *args) Value {
		b := a.bind(name, "case_sensitive", "attribute")
		get := func(v Value) Value { return v }
		if b.has("attribute") {
			get = m.getter(b.value("attribute", nil), nil)
		}
		items := m.mustIterate(v)
		if len(items) == 0 {
			return &Undefined{"No aggregated item, sequence was empty."}
		}
		key := func(v Value) Value { return m.sortKey(get(v), b.flag("case_sensitive", false)) }
		best := items[0]
		for _, item := range items[1:] {
			if m.order("<", key(item), key(best)) == sign {
				best = item
			}
		}
		return best
	}
}

// selectFilter keeps the items, or those whose attribute, pass a test; want says
// whether they must pass or fail.
func selectFilter(name string, byAttribute, want bool) func(*machine, Value, *args) Value {
	return func(m *machine, v Value, a *args) Value {
		return m.lazily(func() []Value {
			if !truth(v) { // None, too
				return nil
			}
			passes := m.selector(name, byAttribute, a)
			var out []Value
			items := m.mustIterate(v)
			m.use(int64(len(items)) * valueSize)
			for _, item := range items {
				if passes(item) == want {
					out = append(out, item)
				}
			}
			return out
		})
	}
}

// selector is what the filters of selectFilter ask of an item.
func (m *machine) selector(name string, byAttribute bool, a *args) func(Value) bool {
	rest := a.positional
	get := func(v Value) Value { return v }
	if byAttribute {
		if len(rest) == 0 {
			raise("Missing parameter for attribute name")
		}
		get = m.getter(rest[0], nil)
		rest = rest[1:]
	}
	if len(rest) == 0 {
		return func(v Value) bool { return truth(get(v)) }
	}
	test := mustString(name, rest[0])
	testArgs := &args{rest[1:], a.named}
	return func(v Value) bool { return m.test(test, get(v), testArgs, 0) }
}

func replaceFilter(m *machine, v Value, a *args) Value {
	b := a.bind("replace", "old", "new", "count")
	count := -1
	if b.has("count") {
		count = b.count("count", -1)
	}
	return m.replace(m.str(v), m.str(b.need("old")), m.str(b.need("new")), count)
}

func reverseFilter(m *machine, v Value, a *args) Value {
	a.bind("reverse")
	if s, ok := asString(v); ok {
		m.use(4 * int64(len(s)))
		r := []rune(s)
		slices.Reverse(r)
		return sameKind(v, m.join(string(r)))
	}
	kind := "generator"
	if _, ok := v.(*List); ok {
		kind = "list_reverseiterator"
	}
	items := slices.Clone(m.mustIterate(v))
	m.use(int64(len(items)) * valueSize)
	slices.Reverse(items)
	return &generator{kind: kind, items: items}
}

func roundFilter(m *machine, v Value, a *args) Value {
	b := a.bind("round", "precision", "method")
	f, ok := asFloat(v)
	if !ok {
		raise("type %s doesn't define __round__ method", typeName(v))
	}
	precision := b.count("precision", 0)
	how := b.text("method", "common")
	scale := math.Pow10(precision)
	switch how {
	case "ceil":
		return math.Ceil(f*scale) / scale
	case "floor":
		return math.Floor(f*scale) / scale
	case "common":
	default:
		raise("method must be common, ceil or floor")
	}
	if i, isInt := bigInt(v); isInt {
		return roundInteger(i, precision)
	}
	if precision < 0 {
		return math.RoundToEven(f*scale) / scale
	}
	rounded, _ := parseFloat(strconv.FormatFloat(f, 'f', min(precision, 400), 64))
	return rounded
}

// roundInteger rounds to tens, hundreds and so on, halves to even ones.
func roundInteger(i *big.Int, precision int) Value {
	if precision >= 0 {
		return integer64(i)
	}
	if precision < -maxDigits {
		return int64(0)
	}
	unit := new(big.Int).Exp(big.NewInt(10), big.NewInt(int64(-precision)), nil)
	down, rest := new(big.Int).DivMod(i, unit, new(big.Int))
	half := rest.Lsh(rest, 1).Cmp(unit)
	if half > 0 || half == 0 && down.Bit(0) == 1 {
		down.Add(down, big.NewInt(1))
	}
	return integer64(down.Mul(down, unit))
}

func sortFilter(m *machine, v Value, a *args) Value {
	b := a.bind("sort", "reverse", "case_sensitive", "attribute")
	sensitive := b.flag("case_sensitive", false)
	gets := []func(Value) Value{func(v Value) Value { return v }}
	if path, isText := asString(b.value("attribute", nil)); isText {
		gets = nil
		for _, p := range strings.Split(path, ",") {
			gets = append(gets, m.getter(p, nil))
		}
	} else if b.has("attribute") {
		gets = []func(Value) Value{m.getter(b.value("attribute", nil), nil)}
	}
	key := func(v Value) Value { // a tuple, so that what has no order but is equal can be sorted
		parts := make(tuple, len(gets))
		for i, get := range gets {
			parts[i] = m.sortKey(get(v), sensitive)
		}
		return parts
	}
	return &List{m.sorted(m.mustIterate(v), key, b.flag("reverse", false))}
}

func stringFilter(m *machine, v Value, a *args) Value {
	a.bind("string")
	if s, ok := v.(markup); ok {
		return s
	}
	return m.str(v)
}

func sumFilter(m *machine, v Value, a *args) Value {
	b := a.bind("sum", "attribute", "start")
	get := func(v Value) Value { return v }
	if b.has("attribute") {
		get = m.getter(b.value("attribute", nil), nil)
	}
	total := b.value("start", int64(0))
	for _, item := range m.mustIterate(v) {
		m.spend(stepWork)
		total = m.operate("+", total, get(item))
	}
	return total
}

func trimFilter(m *machine, v Value, a *args) Value {
	b := a.bind("trim", "chars")
	chars := &args{named: NewDict()}
	if b.has("chars") {
		chars.positional = []Value{b.value("chars", nil)}
	}
	return sameKind(v, stripMethod(true, true)(m, m.str(v), chars).(string))
}

func truncateFilter(m *machine, v Value, a *args) Value {
	b := a.bind("truncate", "length", "killwords", "end", "leeway")
	n, end, leeway := b.count("length", 255), b.text("end", "..."), b.count("leeway", 5)
	endLength := utf8.RuneCountInString(end)
	if n < endLength || leeway < 0 {
		raise("expected length >= %d, got %d", endLength, n)
	}
	if s, ok := asString(v); ok {
		m.scan(len(s))
	}
	if l, ok := length(v); ok && l <= n+leeway {
		return v
	}
	cut := truncated(mustString("truncate", v), n-endLength)
	if !b.flag("killwords", false) {
		if i := strings.LastIndex(cut, " "); i >= 0 {
			cut = cut[:i]
		}
	}
	return cut + end
}

func uniqueFilter(m *machine, v Value, a *args) Value {
	b := a.bind("unique", "case_sensitive", "attribute")
	get := func(v Value) Value { return v }
	if b.has("attribute") {
		get = m.getter(b.value("attribute", nil), nil)
	}
	return m.lazily(func() []Value {
		seen := NewDict()
		var out []Value
		for _, item := range m.mustIterate(v) {
			key := m.sortKey(get(item), b.flag("case_sensitive", false))
			if _, ok := seen.get(m, key); ok {
				continue
			}
			m.use(4 * valueSize)
			seen.set(m, key, nil)
			out = append(out, item)
		}
		return out
	})
}

func wordcountFilter(m *machine, v Value, a *args) Value {
	a.bind("wordcount")
	words, inside := int64(0), false
	s := m.str(v)
	m.scan(caseWork * len(s))
	for _, r := range s {
		before := inside
		if inside = r == '_' || isAlphanumeric(r); inside && !before {
			words++
		}
	}
	return words
}
