package jinja

import (
	"fmt"
	"math"
	"math/big"
	"slices"
	"strconv"
	"strings"
	"unicode/utf8"
)

// toJSON is the filter tojson as Hugging Face sets it up: Python's json.dumps,
// without escapes of other characters than JSON needs and with the keys as they
// stand.
func toJSON(m *machine, v Value, a *args) Value {
	b := a.bind("tojson", "ensure_ascii", "indent", "separators", "sort_keys")
	w := &jsonWriter{m: m, ascii: b.flag("ensure_ascii", false), sorted: b.flag("sort_keys", false), comma: ", ",
		colon: ": "}
	if b.has("indent") {
		w.indent(b)
	}
	if b.has("separators") {
		pair := m.mustIterate(b.value("separators", nil))
		if len(pair) != 2 {
			raise("tojson: separators are two")
		}
		w.comma, w.colon = mustString("tojson", pair[0]), mustString("tojson", pair[1])
	}
	w.write(v)
	m.use(int64(w.Len()))
	return w.String()
}

type jsonWriter struct {
	strings.Builder
	m             *machine
	ascii, sorted bool
	comma, colon  string
	// lines says that each item has its own, indented by unit times level.
	lines bool
	unit  string
	level int
}

func (w *jsonWriter) indent(b bound) {
	w.lines, w.comma = true, ","
	if s, ok := asString(b.value("indent", nil)); ok {
		w.unit = s
		return
	}
	w.unit = strings.Repeat(" ", min(max(b.count("indent", 0), 0), 1024))
}

func (w *jsonWriter) write(v Value) {
	defer w.m.enter()()
	w.m.hold(w.Len())
	switch v := v.(type) {
	case nil:
		w.WriteString("null")
	case bool:
		w.WriteString(strconv.FormatBool(v))
	case int64:
		w.WriteString(strconv.FormatInt(v, 10))
	case *big.Int:
		w.WriteString(v.String())
	case float64:
		w.WriteString(jsonFloat(v))
	case string:
		w.quote(v)
	case markup:
		w.quote(string(v))
	case *List:
		w.list(v.Items)
	case tuple:
		w.list(v)
	case *Dict:
		w.dict(v)
	default:
		raise("Object of type %s is not JSON serializable", typeName(v))
	}
}

func jsonFloat(f float64) string {
	switch {
	case math.IsInf(f, 1):
		return "Infinity"
	case math.IsInf(f, -1):
		return "-Infinity"
	case math.IsNaN(f):
		return "NaN"
	}
	return floatString(f)
}

// newline begins a line, where each item has its own.
func (w *jsonWriter) newline() {
	if w.lines {
		w.m.hold(w.Len() + w.level*len(w.unit))
		w.WriteByte('\n')
		for range w.level {
			w.WriteString(w.unit)
		}
	}
}

func (w *jsonWriter) list(items []Value) {
	w.group("[", "]", len(items), func(i int) { w.write(items[i]) })
}

func (w *jsonWriter) dict(d *Dict) {
	w.group("{", "}", d.Len(), w.entry(d))
}

// group writes n items in brackets.
func (w *jsonWriter) group(begin, end string, n int, item func(i int)) {
	w.WriteString(begin)
	w.level++
	for i := range n {
		if i > 0 {
			w.WriteString(w.comma)
		}
		w.newline()
		item(i)
	}
	w.level--
	if n > 0 {
		w.newline()
	}
	w.WriteString(end)
}

// entry returns what writes a dict's entries in their order.
func (w *jsonWriter) entry(d *Dict) func(i int) {
	order := make([]int, d.Len())
	for i := range order {
		order[i] = i
	}
	if w.sorted {
		slices.SortStableFunc(order, func(i, j int) int { return w.m.order("<", d.keys[i], d.keys[j]) })
	}
	return func(i int) {
		w.quote(w.key(d.keys[order[i]]))
		w.WriteString(w.colon)
		w.write(d.values[order[i]])
	}
}

func (w *jsonWriter) key(k Value) string {
	switch k := k.(type) {
	case nil:
		return "null"
	case bool:
		return strconv.FormatBool(k)
	case float64:
		return jsonFloat(k)
	case int64, *big.Int, string, markup:
		return w.m.str(k)
	}
	raise("keys must be str, int, float, bool or None, not %s", typeName(k))
	return ""
}

// quoteWork is what it takes to quote a byte, as bytes that are looked at.
const quoteWork = 4

var jsonEscapes = map[rune]string{'"': `\"`, '\\': `\\`, '\n': `\n`, '\r': `\r`, '\t': `\t`, '\b': `\b`, '\f': `\f`}

func (w *jsonWriter) quote(s string) {
	w.m.scan(quoteWork * len(s))
	w.WriteByte('"')
	for _, r := range s {
		if r >= ' ' && r < utf8.RuneSelf && r != '"' && r != '\\' && r != 0x7F {
			w.WriteByte(byte(r))
			continue
		}
		escape, ok := jsonEscapes[r]
		switch {
		case ok:
			w.WriteString(escape)
		case r < ' ' || w.ascii && r > '~' && r < 0x10000:
			fmt.Fprintf(w, `\u%04x`, r)
		case w.ascii && r >= utf8.RuneSelf:
			r -= 0x10000
			fmt.Fprintf(w, `\u%04x\u%04x`, 0xD800+(r>>10), 0xDC00+(r&0x3FF))
		default:
			w.WriteRune(r)
		}
	}
	w.WriteByte('"')
}
