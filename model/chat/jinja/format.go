package jinja

import (
	"math/big"
	"regexp"
	"strconv"
	"strings"
	"unicode/utf8"
)

// conversion is a %-format's: %(name)flags width.precision type.
var conversion = regexp.MustCompile(`%(?:\(([^)]*)\))?([-+ #0]*)(\*|[0-9]*)(?:\.(\*|[0-9]*))?[hlL]?(.)`)

// percent is Python's text % operand.
func (m *machine) percent(text string, operand Value) string {
	p := &percentFormat{m: m, operand: operand, rest: []Value{operand}}
	if t, ok := operand.(tuple); ok {
		p.rest = t
	}
	const matchSize = 256 // of what the pattern remembers
	m.useTimes(int64(strings.Count(text, "%")), matchSize)
	m.scan(caseWork * len(text))
	last := 0
	for _, at := range conversion.FindAllStringSubmatchIndex(text, -1) {
		p.raw(text[last:at[0]])
		p.convert(submatches(text, at))
		last = at[1]
	}
	p.raw(text[last:])
	if len(p.rest) > 0 && !p.used && !subscriptable(operand) {
		raise("not all arguments converted during string formatting")
	}
	m.use(int64(p.out.Len()))
	return p.out.String()
}

// subscriptable reports whether Python takes a %-format's operand for a mapping,
// of which not all need be used.
func subscriptable(v Value) bool {
	switch v.(type) {
	case *Dict, *List, numbers:
		return true
	}
	return false
}

func submatches(text string, at []int) []string {
	var out []string
	for i := 0; i < len(at); i += 2 {
		if at[i] < 0 {
			out = append(out, "")
			continue
		}
		out = append(out, text[at[i]:at[i+1]])
	}
	return out
}

type percentFormat struct {
	m       *machine
	operand Value
	rest    []Value
	used    bool // all of rest is
	out     strings.Builder
}

func (p *percentFormat) raw(s string) {
	if strings.Contains(s, "%") {
		raise("incomplete format")
	}
	p.out.WriteString(s)
}

// convert writes one conversion: the whole, name, flags, width, precision, type.
func (p *percentFormat) convert(c []string) {
	flags, width, precision, kind := c[2], c[3], c[4], c[5]
	if kind == "%" {
		p.out.WriteByte('%')
		return
	}
	if width == "*" || precision == "*" {
		raise("a width or precision of * is not supported")
	}
	s := spec{align: '>', fill: " ", precision: -1, kind: kind[0], sign: '-'}
	s.setFlags(flags)
	s.width, _ = strconv.Atoi(width)
	if strings.Contains(c[0], "."+precision) && strings.Contains(c[0], ".") {
		s.precision, _ = strconv.Atoi(precision)
	}
	p.out.WriteString(p.m.formatPercent(&s, p.argument(c[0], c[1])))
	p.m.hold(p.out.Len())
}

func (s *spec) setFlags(flags string) {
	for _, f := range flags {
		switch f {
		case '-':
			s.align = '<'
		case '0':
			s.fill = "0"
		case '+', ' ':
			s.sign = f
		}
	}
	if s.align == '<' {
		s.fill = " "
	}
	if s.fill == "0" {
		s.align = '='
	}
}

func (p *percentFormat) argument(whole, name string) Value {
	if strings.HasPrefix(whole, "%(") {
		d, ok := p.operand.(*Dict)
		if !ok {
			raise("format requires a mapping")
		}
		v, ok := d.Get(name)
		if !ok {
			raise("'%s'", name)
		}
		return v
	}
	if len(p.rest) == 0 {
		raise("not enough arguments for format string")
	}
	v := p.rest[0]
	p.rest = p.rest[1:]
	p.used = len(p.rest) == 0
	return v
}

func (m *machine) formatPercent(s *spec, v Value) string {
	switch s.kind {
	case 's', 'r', 'a':
		text := m.str(v)
		if s.kind != 's' {
			text = m.repr(v)
		}
		if s.align == '=' {
			s.align, s.fill = '>', " "
		}
		return m.align(s, truncated(text, s.precision), "")
	case 'd', 'i', 'u':
		if f, ok := v.(float64); ok {
			i, _ := big.NewFloat(f).Int(nil)
			v = integer64(i)
		}
		s.kind = 'd'
	}
	if _, ok := asFloat(v); !ok {
		raise("%%%c format: a real number is required, not %s", s.kind, typeName(v))
	}
	return m.formatNumber(s, v)
}

func truncated(s string, precision int) string {
	if precision < 0 {
		return s
	}
	return s[:runeOffset(s, precision)]
}

// spec is how a value is formatted.
type spec struct {
	fill      string
	align     rune // < > ^ =; 0: the type's own
	sign      rune // - + or a space
	width     int
	comma     string // between thousands
	precision int    // -1: none
	kind      byte   // 0: the type's own
}

var specPattern = regexp.MustCompile(`^(?:(.)?([<>=^]))?([-+ ]?)(#?)(0?)([0-9]*)([,_]?)(?:\.([0-9]+))?([a-zA-Z%]?)$`)

func parseSpec(text string) *spec {
	c := specPattern.FindStringSubmatch(text)
	if c == nil || c[4] != "" {
		raise("Invalid format specifier '%s'", text)
	}
	s := &spec{fill: " ", sign: '-', precision: -1, comma: c[7]}
	if c[2] != "" {
		s.align = rune(c[2][0])
	}
	switch {
	case c[1] != "":
		s.fill = c[1]
	case c[5] != "":
		s.fill = "0"
		if s.align == 0 {
			s.align = '='
		}
	}
	if c[3] != "" {
		s.sign = rune(c[3][0])
	}
	s.width, _ = strconv.Atoi(c[6])
	if c[8] != "" {
		s.precision, _ = strconv.Atoi(c[8])
	}
	if c[9] != "" {
		s.kind = c[9][0]
	}
	return s
}

// maxFormat bounds widths and precisions.
const maxFormat = 1 << 16

// align fills text up to the width; sign is what stands before.
func (m *machine) align(s *spec, text, sign string) string {
	n := s.width - utf8.RuneCountInString(sign+text)
	if s.width > maxFormat || s.precision > maxFormat {
		raise("a format's width or precision is more than %d", maxFormat)
	}
	if n <= 0 {
		return sign + text
	}
	left := n
	switch s.align {
	case '<':
		left = 0
	case '^':
		left = n / 2
	case '=':
		return sign + strings.Repeat(s.fill, n) + text
	}
	return strings.Repeat(s.fill, left) + sign + text + strings.Repeat(s.fill, n-left)
}

// formatNumber formats a number.
func (m *machine) formatNumber(s *spec, v Value) string {
	if s.precision > maxFormat {
		raise("a format's precision is more than %d", maxFormat)
	}
	text := m.digits(s, v)
	sign := ""
	if strings.HasPrefix(text, "-") {
		sign, text = "-", text[1:]
	} else if s.sign != '-' {
		sign = string(s.sign)
	}
	if s.align == 0 {
		s.align = '>'
	}
	return m.align(s, thousands(text, s.comma), sign)
}

func (m *machine) digits(s *spec, v Value) string {
	i, isInt := bigInt(v)
	f, _ := asFloat(v)
	precision := s.precision
	if precision < 0 {
		precision = 6
	}
	switch s.kind {
	case 'f', 'F':
		return strconv.FormatFloat(f, 'f', precision, 64)
	case 'e', 'E', 'g', 'G':
		if s.kind|0x20 == 'g' {
			precision = max(precision, 1)
		}
		return strconv.FormatFloat(f, s.kind, precision, 64)
	case '%':
		return strconv.FormatFloat(100*f, 'f', precision, 64) + "%"
	case 0:
		if !isInt {
			if s.precision >= 0 {
				return strconv.FormatFloat(f, 'g', max(precision, 1), 64)
			}
			return floatString(f)
		}
		return i.String()
	}
	if !isInt {
		raise("Unknown format code '%c' for object of type 'float'", s.kind)
	}
	return integerDigits(s.kind, i)
}

func integerDigits(kind byte, i *big.Int) string {
	switch kind {
	case 'd', 'n':
		return i.String()
	case 'x':
		return i.Text(16)
	case 'X':
		return strings.ToUpper(i.Text(16))
	case 'o':
		return i.Text(8)
	case 'b':
		return i.Text(2)
	case 'c':
		return string(rune(i.Int64()))
	}
	raise("Unknown format code '%c' for object of type 'int'", kind)
	return ""
}

// thousands puts a separator between groups of three digits.
func thousands(text, comma string) string {
	if comma == "" {
		return text
	}
	whole, fraction := text, ""
	if i := strings.IndexAny(text, ".e%"); i >= 0 {
		whole, fraction = text[:i], text[i:]
	}
	var out strings.Builder
	for i, r := range whole {
		if i > 0 && (len(whole)-i)%3 == 0 {
			out.WriteString(comma)
		}
		out.WriteRune(r)
	}
	return out.String() + fraction
}

// formatMethod is str.format.
func formatMethod(m *machine, s string, a *args) Value {
	f := &fieldFormat{m: m, args: a}
	for s != "" {
		i := strings.IndexAny(s, "{}")
		if i < 0 {
			f.out.WriteString(s)
			break
		}
		m.spend(4 * stepWork)
		f.out.WriteString(s[:i])
		s = f.brace(s[i:])
		m.hold(f.out.Len())
	}
	return f.out.String()
}

type fieldFormat struct {
	m    *machine
	args *args
	next int
	out  strings.Builder
}

// brace formats what begins with a brace, and returns what follows.
func (f *fieldFormat) brace(s string) string {
	if strings.HasPrefix(s, "{{") || strings.HasPrefix(s, "}}") {
		f.out.WriteByte(s[0])
		return s[2:]
	}
	end := strings.IndexByte(s, '}')
	if s[0] == '}' || end < 0 {
		raise("Single '%c' encountered in format string", s[0])
	}
	f.field(s[1:end])
	return s[end+1:]
}

// field formats name!conversion:spec.
func (f *fieldFormat) field(field string) {
	if strings.Contains(field, "{") {
		raise("a format with nested fields is not supported")
	}
	name, format, _ := strings.Cut(field, ":")
	name, conversion, converted := strings.Cut(name, "!")
	v := f.value(name)
	if converted {
		switch conversion {
		case "s":
			v = f.m.str(v)
		case "r":
			v = f.m.repr(v)
		default:
			raise("the conversion !%s is not supported", conversion)
		}
	}
	f.out.WriteString(f.m.format(parseSpec(format), v))
}

func (f *fieldFormat) value(name string) Value {
	if strings.ContainsAny(name, ".[") {
		raise("attributes in a format are not supported")
	}
	if name == "" {
		name = strconv.Itoa(f.next)
		f.next++
	}
	if i, err := strconv.Atoi(name); err == nil {
		if i < 0 || i >= len(f.args.positional) {
			raise("Replacement index %d out of range for positional args tuple", i)
		}
		return f.args.positional[i]
	}
	v, ok := f.args.named.Get(name)
	if !ok {
		raise("'%s'", name)
	}
	return v
}

// format is Python's format(v, spec).
func (m *machine) format(s *spec, v Value) string {
	if _, isBool := v.(bool); !isBool || s.kind != 0 {
		if _, ok := asFloat(v); ok {
			return m.formatNumber(s, v)
		}
	}
	if s.kind != 0 && s.kind != 's' || s.align == '=' {
		raise("Unknown format code for object of type '%s'", typeName(v))
	}
	if s.align == 0 {
		s.align = '<'
	}
	return m.align(s, truncated(m.str(v), s.precision), "")
}
