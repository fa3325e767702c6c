package jinja

import (
	"slices"
	"strings"
	"unicode"
	"unicode/utf8"
)

// method returns an attribute of a Python type: nearly always a method.
func method(object Value, name string) (Value, bool) {
	switch o := object.(type) {
	case string, markup:
		return stringMethod(o, name)
	case *Dict:
		return named(dictMethods, "dict", o, name)
	case *List:
		return named(listMethods, "list", o, name)
	case tuple:
		return named(tupleMethods, "tuple", o, name)
	}
	return nil, false
}

// changing are the methods that would change a value, which templates may not.
var changing = map[string][]string{
	"dict": {"clear", "pop", "popitem", "setdefault", "update"},
	"list": {"append", "clear", "extend", "insert", "pop", "remove", "reverse", "sort"},
}

// named binds a method to its object.
func named[T any](methods map[string]func(*machine, T, *args) Value, kind string, object T, name string) (Value, bool) {
	if f, ok := methods[name]; ok {
		return &function{name, func(m *machine, a *args) Value { return f(m, object, a) }}, true
	}
	if slices.Contains(changing[kind], name) {
		return &function{name, func(*machine, *args) Value {
			raise("access to attribute '%s' of '%s' object is unsafe", name, kind)
			return nil
		}}, true
	}
	return nil, false
}

var dictMethods = map[string]func(*machine, *Dict, *args) Value{
	"get": func(m *machine, d *Dict, a *args) Value {
		b := a.bindPositional("get", "key", "default")
		if v, ok := d.get(m, b.need("key")); ok {
			return v
		}
		return b.value("default", nil)
	},
	"keys":   dictView("keys"),
	"values": dictView("values"),
	"items":  dictView("items"),
	"copy": func(_ *machine, d *Dict, a *args) Value {
		a.bindPositional("copy")
		return d
	},
}

func dictView(kind string) func(*machine, *Dict, *args) Value {
	return func(_ *machine, d *Dict, a *args) Value {
		a.bindPositional(kind)
		return &view{d, kind}
	}
}

var listMethods = map[string]func(*machine, *List, *args) Value{
	"count": func(m *machine, l *List, a *args) Value { return m.count(l.Items, a) },
	"index": func(m *machine, l *List, a *args) Value { return m.index(l.Items, a) },
	"copy": func(_ *machine, l *List, a *args) Value {
		a.bindPositional("copy")
		return l
	},
}

var tupleMethods = map[string]func(*machine, tuple, *args) Value{
	"count": func(m *machine, t tuple, a *args) Value { return m.count(t, a) },
	"index": func(m *machine, t tuple, a *args) Value { return m.index(t, a) },
}

func (m *machine) count(items []Value, a *args) Value {
	want := a.bindPositional("count", "value").need("value")
	n := int64(0)
	for _, v := range items {
		if m.equal(v, want) {
			n++
		}
	}
	return n
}

func (m *machine) index(items []Value, a *args) Value {
	want := a.bindPositional("index", "value").need("value")
	for i, v := range items {
		if m.equal(v, want) {
			return int64(i)
		}
	}
	raise("%s is not in list", m.repr(want))
	return nil
}

// stringMethods are those of str. What they return as a string is a Markup where
// they are called on one.
var stringMethods = map[string]func(m *machine, s string, a *args) Value{
	"capitalize":   noArguments(capitalize),
	"casefold":     noArguments(strings.ToLower),
	"lower":        noArguments(lower),
	"upper":        noArguments(upper),
	"swapcase":     noArguments(swapcase),
	"title":        noArguments(titleWords),
	"strip":        stripMethod(true, true),
	"lstrip":       stripMethod(true, false),
	"rstrip":       stripMethod(false, true),
	"startswith":   affixMethod("startswith", strings.HasPrefix),
	"endswith":     affixMethod("endswith", strings.HasSuffix),
	"split":        splitMethod(splitLeft, splitSpaceLeft),
	"rsplit":       splitMethod(splitRight, splitSpaceRight),
	"splitlines":   splitLines,
	"partition":    partition(strings.Index, false),
	"rpartition":   partition(strings.LastIndex, true),
	"replace":      replaceMethod,
	"removeprefix": cutMethod("removeprefix", "prefix", strings.TrimPrefix),
	"removesuffix": cutMethod("removesuffix", "suffix", strings.TrimSuffix),
	"join":         joinMethod,
	"find":         findMethod("find", strings.Index),
	"rfind":        findMethod("rfind", strings.LastIndex),
	"index":        indexMethod("index", strings.Index),
	"rindex":       indexMethod("rindex", strings.LastIndex),
	"count":        countMethod,
	"center":       padMethod("center"),
	"ljust":        padMethod("ljust"),
	"rjust":        padMethod("rjust"),
	"zfill":        zfill,
	"expandtabs":   nil,
	"encode":       nil,
	"translate":    nil,
	"format_map":   nil,
	"isidentifier": nil,
	"format":       formatMethod,
	"isalnum":      characterTest(func(r rune) bool { return unicode.IsLetter(r) || unicode.IsNumber(r) }),
	"isalpha":      characterTest(unicode.IsLetter),
	"isdecimal":    characterTest(unicode.IsDigit),
	"isdigit":      characterTest(isDigit),
	"isnumeric":    characterTest(unicode.IsNumber),
	"isspace":      characterTest(IsSpace),
	"isascii":      textTest(isASCII),
	"isprintable":  textTest(func(s string) bool { return strings.IndexFunc(s, notPrintable) < 0 }),
	"islower":      textTest(func(s string) bool { return cased(s) && s == lower(s) }),
	"isupper":      textTest(func(s string) bool { return cased(s) && s == upper(s) }),
	"istitle":      textTest(func(s string) bool { return cased(s) && s == titleWords(s) }),
}

func stringMethod(object Value, name string) (Value, bool) {
	f, ok := stringMethods[name]
	if !ok {
		return nil, false
	}
	s, _ := asString(object)
	return &function{name, func(m *machine, a *args) Value {
		if f == nil {
			raise("the method '%s' of 'str' is not supported", name)
		}
		m.scan(methodWork(name) * len(s))
		if _, ok := object.(markup); ok {
			return m.markupMethod(name, f, s, a)
		}
		v := f(m, s, a)
		if text, ok := v.(string); ok {
			m.use(int64(len(text)))
		}
		return v
	}}, true
}

// methodWork is what a method does for each byte of its string.
func methodWork(name string) int {
	switch name {
	case "startswith", "endswith", "removeprefix", "removesuffix":
		return 0 // they look at the affix alone
	case "capitalize", "casefold", "lower", "upper", "swapcase", "title", "islower", "isupper", "istitle":
		return caseWork
	}
	return 2
}

// markupMethod is a method of a markup: what it inserts is escaped, and what it
// returns is a markup, too.
func (m *machine) markupMethod(name string, f func(*machine, string, *args) Value, s string, a *args) Value {
	switch name {
	case "replace":
		a = &args{slices.Clone(a.positional), a.named}
		if len(a.positional) > 1 {
			a.positional[1] = m.escaped(a.positional[1])
		}
	case "join":
		items := m.mustIterate(a.bindPositional("join", "iterable").need("iterable"))
		escaped := make([]Value, len(items))
		for i, v := range items {
			escaped[i] = m.escaped(v)
		}
		a = &args{[]Value{tuple(escaped)}, a.named}
	case "format":
		raise("the method 'format' of 'Markup' is not supported")
	}
	v := f(m, s, a)
	if text, ok := v.(string); ok {
		m.use(int64(len(text)))
	}
	return asMarkup(v)
}

// escaped escapes a string, unless it is a markup.
func (m *machine) escaped(v Value) Value {
	if s, ok := v.(string); ok {
		return markup(m.join(m.escape(s)))
	}
	return v
}

// asMarkup makes a string, or those in a list or tuple, markups.
func asMarkup(v Value) Value {
	switch v := v.(type) {
	case string:
		return markup(v)
	case *List:
		for i, item := range v.Items {
			v.Items[i] = asMarkup(item)
		}
	case tuple:
		for i, item := range v {
			v[i] = asMarkup(item)
		}
	}
	return v
}

func noArguments(f func(string) string) func(*machine, string, *args) Value {
	return func(_ *machine, s string, a *args) Value {
		a.bindPositional("the method")
		return f(s)
	}
}

// lower and upper map some characters to several, as Python does.
func lower(s string) string { return strings.ToLower(strings.ReplaceAll(s, "İ", "i̇")) }

var wideUpper = strings.NewReplacer("ß", "SS", "ŉ", "ʼN", "ﬀ", "FF", "ﬁ", "FI", "ﬂ", "FL", "ﬃ", "FFI", "ﬄ", "FFL", "ﬅ",
	"ST", "ﬆ", "ST", "և", "ԵՒ")

func upper(s string) string { return strings.ToUpper(wideUpper.Replace(s)) }

func capitalize(s string) string {
	_, size := utf8.DecodeRuneInString(s)
	return strings.ToTitle(wideTitle.Replace(s[:size])) + lower(s[size:])
}

var wideTitle = strings.NewReplacer("ß", "Ss", "ﬀ", "Ff", "ﬁ", "Fi", "ﬂ", "Fl")

func swapcase(s string) string {
	var out strings.Builder
	for _, r := range s {
		if unicode.IsUpper(r) {
			out.WriteString(lower(string(r)))
		} else {
			out.WriteString(upper(string(r)))
		}
	}
	return out.String()
}

// titleWords makes each letter behind one that has no case a capital.
func titleWords(s string) string {
	var out strings.Builder
	inside := false
	for _, r := range s {
		if inside {
			out.WriteString(lower(string(r)))
		} else {
			out.WriteRune(unicode.ToTitle(r))
		}
		inside = isCased(r)
	}
	return out.String()
}

func isCased(r rune) bool { return unicode.IsUpper(r) || unicode.IsLower(r) || unicode.IsTitle(r) }

func cased(s string) bool { return strings.IndexFunc(s, isCased) >= 0 }

func isDigit(r rune) bool {
	return unicode.IsDigit(r) || strings.ContainsRune("²³¹⁰⁴⁵⁶⁷⁸⁹₀₁₂₃₄₅₆₇₈₉", r)
}

func isASCII(s string) bool {
	return strings.IndexFunc(s, func(r rune) bool { return r > unicode.MaxASCII }) < 0
}

func notPrintable(r rune) bool { return !isPrintable(r) }

// characterTest is true of a string where it is of all its characters, and there
// is one.
func characterTest(is func(rune) bool) func(*machine, string, *args) Value {
	return textTest(func(s string) bool {
		return s != "" && strings.IndexFunc(s, func(r rune) bool { return !is(r) }) < 0
	})
}

func textTest(is func(string) bool) func(*machine, string, *args) Value {
	return func(_ *machine, s string, a *args) Value {
		a.bindPositional("the method")
		return is(s)
	}
}

// anyOf matches the characters of a string.
func anyOf(m *machine, chars string) func(rune) bool {
	const few = 16
	if len(chars) <= few {
		return func(r rune) bool { return strings.ContainsRune(chars, r) }
	}
	m.use(int64(len(chars)) * valueSize)
	set := map[rune]bool{}
	for _, r := range chars {
		set[r] = true
	}
	return func(r rune) bool { return set[r] }
}

func stripMethod(left, right bool) func(*machine, string, *args) Value {
	return func(m *machine, s string, a *args) Value {
		b := a.bindPositional("strip", "chars")
		is := IsSpace
		if b.has("chars") {
			is = anyOf(m, b.text("chars", ""))
		}
		if left {
			s = strings.TrimLeftFunc(s, is)
		}
		if right {
			s = strings.TrimRightFunc(s, is)
		}
		return s
	}
}

// affixMethod is startswith or endswith: of one string or any of a tuple.
func affixMethod(name string, has func(s, affix string) bool) func(*machine, string, *args) Value {
	return func(m *machine, s string, a *args) Value {
		begins := func(v Value) bool {
			affix := mustString(name, v)
			m.spend(itemWork)
			m.scan(min(len(affix), len(s)))
			return has(s, affix)
		}
		v := a.bindPositional(name, "affix").need("affix")
		if t, ok := v.(tuple); ok {
			return slices.ContainsFunc(t, begins)
		}
		return begins(v)
	}
}

func mustString(callee string, v Value) string {
	s, ok := asString(v)
	if !ok {
		raise("%s: want str, got %s", callee, typeName(v))
	}
	return s
}

func cutMethod(name, param string, cut func(s, affix string) string) func(*machine, string, *args) Value {
	return func(_ *machine, s string, a *args) Value {
		b := a.bindPositional(name, param)
		b.need(param)
		return cut(s, b.text(param, ""))
	}
}

// splitMethod is split or rsplit: at a separator, or at whitespace.
func splitMethod(
	at func(s, sep string, most int) []string, space func(s string, most int) []string,
) func(*machine, string, *args) Value {
	return func(m *machine, s string, a *args) Value {
		b := a.bind("split", "sep", "maxsplit")
		most := b.count("maxsplit", -1)
		if most < 0 {
			most = len(s) + 1
		}
		if !b.has("sep") {
			m.hold(len(s) * valueSize / 2) // a part has a byte at least, and one between
			return m.strings(space(s, most))
		}
		sep := b.text("sep", "")
		if sep == "" {
			raise("empty separator")
		}
		m.use(int64(strings.Count(s, sep)+1) * 2 * valueSize)
		return m.strings(at(s, sep, most))
	}
}

// strings makes a list of strings.
func (m *machine) strings(parts []string) Value {
	m.use(int64(len(parts)) * 2 * valueSize)
	out := make([]Value, len(parts))
	for i, p := range parts {
		out[i] = p
	}
	return &List{out}
}

func splitLeft(s, sep string, most int) []string { return strings.SplitN(s, sep, most+1) }

func splitRight(s, sep string, most int) []string {
	parts := strings.Split(s, sep)
	if n := len(parts) - 1 - most; n > 0 {
		parts = append([]string{strings.Join(parts[:n+1], sep)}, parts[n+1:]...)
	}
	return parts
}

func splitSpaceLeft(s string, most int) []string {
	var out []string
	for s = strings.TrimLeftFunc(s, IsSpace); s != ""; s = strings.TrimLeftFunc(s, IsSpace) {
		end := strings.IndexFunc(s, IsSpace)
		if end < 0 || len(out) == most {
			end = len(s)
		}
		if len(out) == most {
			return append(out, s)
		}
		out = append(out, s[:end])
		s = s[end:]
	}
	return out
}

func splitSpaceRight(s string, most int) []string {
	var out []string
	for s = strings.TrimRightFunc(s, IsSpace); s != ""; s = strings.TrimRightFunc(s, IsSpace) {
		if len(out) == most {
			out = append(out, s)
			break
		}
		begin := 0
		if i := strings.LastIndexFunc(s, IsSpace); i >= 0 {
			_, size := utf8.DecodeRuneInString(s[i:])
			begin = i + size
		}
		out = append(out, s[begin:])
		s = s[:begin]
	}
	slices.Reverse(out)
	return out
}

func isLineEnd(r rune) bool {
	return r >= '\n' && r <= '\r' || r >= 0x1C && r <= 0x1E || r == 0x85 || r == 0x2028 || r == 0x2029
}

func splitLines(m *machine, s string, a *args) Value {
	keep := a.bind("splitlines", "keepends").flag("keepends", false)
	m.scan(len(s))
	m.hold(strings.Count(s, "\n") * valueSize)
	var out []string
	for s != "" {
		text, end := s, ""
		if i := strings.IndexFunc(s, isLineEnd); i >= 0 {
			_, size := utf8.DecodeRuneInString(s[i:])
			if strings.HasPrefix(s[i:], "\r\n") {
				size = 2
			}
			text, end = s[:i], s[i:i+size]
		}
		s = s[len(text)+len(end):]
		if keep {
			text += end
		}
		out = append(out, text)
	}
	return m.strings(out)
}

// partition cuts at one separator; last says that where there is none, the text
// is the last part.
func partition(find func(s, sep string) int, last bool) func(*machine, string, *args) Value {
	return func(_ *machine, s string, a *args) Value {
		sep := mustString("partition", a.bindPositional("partition", "sep").need("sep"))
		if sep == "" {
			raise("empty separator")
		}
		i := find(s, sep)
		switch {
		case i >= 0:
			return tuple{s[:i], sep, s[i+len(sep):]}
		case last:
			return tuple{"", "", s}
		}
		return tuple{s, "", ""}
	}
}

func replaceMethod(m *machine, s string, a *args) Value {
	b := a.bind("replace", "old", "new", "count")
	return m.replace(s, mustString("replace", b.need("old")), mustString("replace", b.need("new")),
		b.count("count", -1))
}

// replace counts the result before it makes it.
func (m *machine) replace(s, from, to string, count int) string {
	m.scan(2 * (len(s) + len(from)))
	n := strings.Count(s, from)
	if count >= 0 {
		n = min(n, count)
	}
	m.useTimes(int64(n), int64(len(to)))
	m.use(int64(len(s)))
	return strings.Replace(s, from, to, count)
}

func joinMethod(m *machine, s string, a *args) Value {
	items := m.mustIterate(a.bindPositional("join", "iterable").need("iterable"))
	m.use(int64(len(items)) * valueSize)
	parts := make([]string, len(items))
	for i, v := range items {
		text, ok := asString(v)
		if !ok {
			raise("sequence item %d: expected str instance, %s found", i, typeName(v))
		}
		parts[i] = text
	}
	return m.joined(parts, s)
}

// joined joins strings with a separator.
func (m *machine) joined(parts []string, separator string) string {
	m.useTimes(int64(len(parts)), int64(len(separator)))
	for _, p := range parts {
		m.use(int64(len(p)))
	}
	return strings.Join(parts, separator)
}

// window is the part of s between two places, which count characters.
func window(s string, b bound) (part string, before int) {
	n := int64(utf8.RuneCountInString(s))
	start, end := int64(0), n
	if b.has("start") {
		start = clamp(b.integer("start", 0), n, 1)
	}
	if b.has("end") {
		end = clamp(b.integer("end", 0), n, 1)
	}
	if start > end {
		return "", -1
	}
	s = s[runeOffset(s, int(start)):]
	return s[:runeOffset(s, int(end-start))], int(start)
}

func findMethod(name string, find func(s, sub string) int) func(*machine, string, *args) Value {
	return func(_ *machine, s string, a *args) Value {
		b := a.bindPositional(name, "sub", "start", "end")
		sub := mustString(name, b.need("sub"))
		part, before := window(s, b)
		i := find(part, sub)
		if i < 0 || before < 0 {
			return int64(-1)
		}
		return int64(before + utf8.RuneCountInString(part[:i]))
	}
}

func indexMethod(name string, find func(s, sub string) int) func(*machine, string, *args) Value {
	look := findMethod(name, find)
	return func(m *machine, s string, a *args) Value {
		i := look(m, s, a)
		if i == int64(-1) {
			raise("substring not found")
		}
		return i
	}
}

func countMethod(_ *machine, s string, a *args) Value {
	b := a.bindPositional("count", "sub", "start", "end")
	sub := mustString("count", b.need("sub"))
	part, before := window(s, b)
	if before < 0 {
		return int64(0)
	}
	return int64(strings.Count(part, sub))
}

// padMethod is center, ljust or rjust.
func padMethod(name string) func(*machine, string, *args) Value {
	return func(m *machine, s string, a *args) Value {
		b := a.bindPositional(name, "width", "fillchar")
		b.need("width")
		fill := b.text("fillchar", " ")
		if utf8.RuneCountInString(fill) != 1 {
			raise("the fill character must be exactly one character long")
		}
		return m.pad(s, name, b.count("width", 0), fill)
	}
}

// pad fills s up to a width.
func (m *machine) pad(s, how string, width int, fill string) string {
	n := max(0, width-utf8.RuneCountInString(s))
	m.useTimes(int64(n), int64(len(fill)))
	left := 0
	switch how {
	case "rjust":
		left = n
	case "center":
		left = n/2 + n&width&1
	}
	return strings.Repeat(fill, left) + s + strings.Repeat(fill, n-left)
}

func zfill(m *machine, s string, a *args) Value {
	b := a.bindPositional("zfill", "width")
	b.need("width")
	sign := ""
	if strings.HasPrefix(s, "-") || strings.HasPrefix(s, "+") {
		sign, s = s[:1], s[1:]
	}
	return sign + m.pad(s, "rjust", b.count("width", 0)-len(sign), "0")
}
