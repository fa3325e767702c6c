package jinja

import (
	"fmt"
	"math"
	"math/big"
	"strconv"
	"strings"
	"unicode"
)

// str is Python's str(v).
func (m *machine) str(v Value) string {
	switch v := v.(type) {
	case string:
		return v
	case markup:
		return string(v)
	case *Undefined:
		return ""
	}
	return m.repr(v)
}

// repr is Python's repr(v).
func (m *machine) repr(v Value) string {
	w := reprWriter{m: m}
	w.write(v)
	m.use(int64(w.Len()))
	return w.String()
}

type reprWriter struct {
	strings.Builder
	m *machine
}

func (w *reprWriter) write(v Value) {
	defer w.m.enter()()
	w.m.hold(w.Len())
	switch v := v.(type) {
	case nil:
		w.WriteString("None")
	case bool:
		w.WriteString(map[bool]string{true: "True", false: "False"}[v])
	case int64:
		w.WriteString(strconv.FormatInt(v, 10))
	case *big.Int:
		w.WriteString(v.String())
	case float64:
		w.WriteString(floatString(v))
	case string:
		w.m.scan(quoteWork * len(v))
		writeQuoted(&w.Builder, v)
	case markup:
		w.m.scan(quoteWork * len(v))
		w.WriteString("Markup(")
		writeQuoted(&w.Builder, string(v))
		w.WriteByte(')')
	case *List:
		w.items("[", v.Items, "]")
	case tuple:
		end := ")"
		if len(v) == 1 {
			end = ",)"
		}
		w.items("(", v, end)
	case *Dict:
		w.dict(v)
	case *view:
		w.m.use(int64(v.dict.Len()) * 4 * valueSize)
		w.items("dict_"+v.kind+"([", v.items(), "])")
	case numbers:
		w.WriteString(v.String())
	case *Undefined:
		w.WriteString("Undefined")
	case *namespace:
		w.WriteString("<Namespace ")
		w.dict(v.attrs)
		w.WriteByte('>')
	case *macro:
		fmt.Fprintf(w, "<Macro '%s'>", v.code.name)
	default:
		fmt.Fprintf(w, "<%s object>", typeName(v))
	}
}

func (r numbers) String() string {
	if r.step == 1 {
		return fmt.Sprintf("range(%d, %d)", r.start, r.stop)
	}
	return fmt.Sprintf("range(%d, %d, %d)", r.start, r.stop, r.step)
}

func (w *reprWriter) items(begin string, items []Value, end string) {
	w.WriteString(begin)
	for i, v := range items {
		if i > 0 {
			w.WriteString(", ")
		}
		w.write(v)
	}
	w.WriteString(end)
}

func (w *reprWriter) dict(d *Dict) {
	w.WriteByte('{')
	for i, k := range d.keys {
		if i > 0 {
			w.WriteString(", ")
		}
		w.write(k)
		w.WriteString(": ")
		w.write(d.values[i])
	}
	w.WriteByte('}')
}

// floatString is the shortest text that reads back as f, as Python writes it.
func floatString(f float64) string {
	switch {
	case math.IsInf(f, 1):
		return "inf"
	case math.IsInf(f, -1):
		return "-inf"
	case math.IsNaN(f):
		return "nan"
	}
	s := strconv.FormatFloat(f, 'e', -1, 64)
	exponent, err := strconv.Atoi(s[strings.IndexByte(s, 'e')+1:])
	if err == nil && (exponent < -4 || exponent >= 16) {
		return s
	}
	s = strconv.FormatFloat(f, 'f', -1, 64)
	if !strings.Contains(s, ".") {
		s += ".0"
	}
	return s
}

// writeQuoted writes a string as a literal of Python's.
func writeQuoted(out *strings.Builder, s string) {
	quote := '\''
	if strings.Contains(s, "'") && !strings.Contains(s, `"`) {
		quote = '"'
	}
	out.WriteRune(quote)
	for _, r := range s {
		switch {
		case r == quote || r == '\\':
			out.WriteByte('\\')
			out.WriteRune(r)
		case r == '\n':
			out.WriteString(`\n`)
		case r == '\r':
			out.WriteString(`\r`)
		case r == '\t':
			out.WriteString(`\t`)
		case isPrintable(r):
			out.WriteRune(r)
		case r < 0x100:
			fmt.Fprintf(out, `\x%02x`, r)
		case r < 0x10000:
			fmt.Fprintf(out, `\u%04x`, r)
		default:
			fmt.Fprintf(out, `\U%08x`, r)
		}
	}
	out.WriteRune(quote)
}

// isPrintable is str.isprintable for a character.
func isPrintable(r rune) bool {
	return r == ' ' || unicode.IsGraphic(r) && !unicode.Is(unicode.Z, r)
}

// escapeHTML does what the filter escape and a markup do to a string.
var escapeHTML = strings.NewReplacer("&", "&amp;", ">", "&gt;", "<", "&lt;", "'", "&#39;", `"`, "&#34;")
