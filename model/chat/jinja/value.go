package jinja

import (
	"fmt"
	"math"
	"math/big"
	"strings"
	"unicode/utf8"
)

// Value is a value of Python's, as templates see them: nil (None), bool, int64,
// *big.Int (what int64 cannot hold), float64, string, markup, *List, tuple,
// *Dict, *Undefined, and the types below.
type Value any

// markup is a string that the filters safe and escape made: to add to it escapes
// what is added.
type markup string

// List is a list.
type List struct{ Items []Value }

// tuple is a tuple.
type tuple []Value

// Undefined is what a name, attribute or item is that there is not. Most uses of
// it are an error.
type Undefined struct{ what string }

// dict keys are compared as Python compares them: 1, 1.0 and True are one.
type dictKey any

// Dict is a dict: its keys keep the order in which they came.
type Dict struct {
	keys, values []Value
	// index finds keys by their hashes once there are more than fewKeys: most
	// dicts have few, and a client may send a million of them.
	index map[dictKey]int
}

// fewKeys are compared one after the other.
const fewKeys = 8

// NewDict returns an empty dict.
func NewDict() *Dict { return &Dict{} }

// find returns the place of a key by its hash.
func (d *Dict) find(m *machine, k dictKey) (int, bool) {
	if d.index != nil {
		i, ok := d.index[k]
		return i, ok
	}
	text, isText := k.(string)
	for i, key := range d.keys {
		if s, ok := asString(key); ok || isText { // what is text is text alone
			if ok && isText && s == text {
				return i, true
			}
		} else if m.hash(key) == k {
			return i, true
		}
	}
	return 0, false
}

// note puts the last key into the index, where there is one or is to be one.
func (d *Dict) note(m *machine) {
	n := len(d.keys)
	if n <= fewKeys {
		return
	}
	if d.index == nil {
		d.index = make(map[dictKey]int, n)
		for i, key := range d.keys {
			d.index[m.hash(key)] = i
		}
	}
	d.index[m.hash(d.keys[n-1])] = n - 1
}

// Len is the number of keys.
func (d *Dict) Len() int { return len(d.keys) }

// Set gives a key a value. It keeps its place where it is there already.
func (d *Dict) Set(key string, v Value) { d.set(nil, key, v) }

// Get returns the value of a key.
func (d *Dict) Get(key string) (Value, bool) { return d.get(nil, key) }

// set needs no machine where the key is a string.
func (d *Dict) set(m *machine, key, v Value) {
	if i, ok := d.find(m, m.hash(key)); ok {
		d.values[i] = v
		return
	}
	d.keys = append(d.keys, key)
	d.values = append(d.values, v)
	d.note(m)
}

func (d *Dict) get(m *machine, key Value) (Value, bool) {
	i, ok := d.find(m, m.hash(key))
	if !ok {
		return nil, false
	}
	return d.values[i], true
}

// noneKey is None as a key, which nil cannot be told from nothing by.
type noneKey struct{}

// tupleKey is a tuple as a key, by its parts' hashes written out.
type tupleKey string

// hash returns what a dict keeps a key under; it raises for what has no hash. It
// needs no machine where the value is a string.
func (m *machine) hash(v Value) dictKey {
	switch v := v.(type) {
	case nil:
		return noneKey{}
	case string:
		if m != nil {
			m.scan(len(v))
		}
		return v
	case bool:
		return boolInt(v)
	case float64:
		if i := int64(v); float64(i) == v && math.Abs(v) < 1<<62 {
			return i
		}
		return v
	case *big.Int:
		return tupleKey("int " + v.String())
	case markup:
		return string(v)
	case tuple:
		defer m.enter()()
		var k strings.Builder
		for _, item := range v {
			fmt.Fprintf(&k, "%T %#[1]v,", m.hash(item))
			m.hold(k.Len())
		}
		m.scan(k.Len())
		return tupleKey(k.String())
	case *List, *Dict, *view:
		raise("unhashable type: '%s'", typeName(v))
	}
	return v
}

func boolInt(b bool) int64 {
	if b {
		return 1
	}
	return 0
}

// integer64 is an integer in its smaller form.
func integer64(i *big.Int) Value {
	if i.IsInt64() {
		return i.Int64()
	}
	return i
}

// view is what a dict's methods keys, values and items give.
type view struct {
	dict *Dict
	kind string
}

func (v *view) items() []Value {
	switch v.kind {
	case "keys":
		return v.dict.keys
	case "values":
		return v.dict.values
	}
	return pairs(v.dict)
}

func pairs(d *Dict) []Value {
	out := make([]Value, len(d.keys))
	for i, k := range d.keys {
		out[i] = tuple{k, d.values[i]}
	}
	return out
}

// generator gives its items once. They are made when the first is asked for, so
// that what goes wrong does so then.
type generator struct {
	kind  string // Python's name of its type
	make  func() []Value
	items []Value
}

// lazily returns a generator of what make returns. To make the items of one may
// make those of another, and so on: each is a level.
func (m *machine) lazily(makeItems func() []Value) *generator {
	return &generator{kind: "generator", make: func() []Value {
		defer m.enter()()
		return makeItems()
	}}
}

// rest uses the generator up.
func (g *generator) rest() []Value {
	g.start()
	items := g.items
	g.items = nil
	return items
}

func (g *generator) start() {
	if g.make != nil {
		makeItems := g.make
		g.make = nil
		g.items = makeItems()
	}
}

// next returns the next item.
func (g *generator) next() (Value, bool) {
	g.start()
	if len(g.items) == 0 {
		return nil, false
	}
	v := g.items[0]
	g.items = g.items[1:]
	return v, true
}

// numbers is a range.
type numbers struct{ start, stop, step int64 }

func (r numbers) length() int64 {
	span := r.stop - r.start
	if r.step < 0 {
		span = -span
	}
	step := max(r.step, -r.step)
	return max(0, (span+step-1)/step)
}

func (r numbers) items() []Value {
	out := make([]Value, r.length())
	for i := range out {
		out[i] = r.start + int64(i)*r.step
	}
	return out
}

// namespace is an object whose attributes templates may set.
type namespace struct{ attrs *Dict }

// function is what can be called, but a macro.
type function struct {
	name string
	call func(m *machine, a *args) Value
}

// joiner gives nothing when it is first called, and then its separator.
type joiner struct {
	separator string
	used      bool
}

// cycler gives its items in turn.
type cycler struct {
	items []Value
	at    int
}

// typeName is Python's name of a value's type.
func typeName(v Value) string {
	switch v := v.(type) {
	case nil:
		return "NoneType"
	case bool:
		return "bool"
	case int64, *big.Int:
		return "int"
	case float64:
		return "float"
	case string:
		return "str"
	case markup:
		return "Markup"
	case *List:
		return "list"
	case tuple:
		return "tuple"
	case *Dict:
		return "dict"
	case *Undefined:
		return "Undefined"
	case *view:
		return "dict_" + v.kind
	case *generator:
		return v.kind
	case numbers:
		return "range"
	case *namespace:
		return "TemplateNamespace"
	case *function:
		return "method"
	case *macro:
		return "Macro"
	case *loop:
		return "LoopContext"
	}
	return "object"
}

// asString returns a str, a Markup among them.
func asString(v Value) (string, bool) {
	switch v := v.(type) {
	case string:
		return v, true
	case markup:
		return string(v), true
	}
	return "", false
}

// truth is bool(v).
func truth(v Value) bool {
	switch v := v.(type) {
	case nil:
		return false
	case bool:
		return v
	case int64:
		return v != 0
	case float64:
		return v != 0
	case string:
		return v != ""
	case markup:
		return v != ""
	case *Undefined:
		return false
	}
	if n, ok := length(v); ok {
		return n > 0
	}
	return true
}

// length is len(v), where v has one.
func length(v Value) (int, bool) {
	switch v := v.(type) {
	case string:
		return utf8.RuneCountInString(v), true
	case markup:
		return utf8.RuneCountInString(string(v)), true
	case *List:
		return len(v.Items), true
	case tuple:
		return len(v), true
	case *Dict:
		return v.Len(), true
	case *view:
		return v.dict.Len(), true
	case numbers:
		return int(v.length()), true
	case *loop:
		return len(v.items), true
	case *Undefined:
		return 0, true
	}
	return 0, false
}

// iterate returns what a for loop over v sees, and counts the work of looking at
// each of it. A generator is used up.
func (m *machine) iterate(v Value) ([]Value, bool) {
	items, ok := m.items(v)
	m.spend(int64(len(items)) * itemWork)
	return items, ok
}

// items is iterate, but for the work.
func (m *machine) items(v Value) ([]Value, bool) {
	switch v := v.(type) {
	case string:
		return m.characters(v), true
	case markup:
		return m.characters(string(v)), true
	case *List:
		return v.Items, true
	case tuple:
		return v, true
	case *Dict:
		return v.keys, true
	case *view:
		m.use(int64(v.dict.Len()) * 4 * valueSize)
		return v.items(), true
	case numbers:
		m.use(v.length() * valueSize)
		return v.items(), true
	case *generator:
		return v.rest(), true
	case *Undefined:
		return nil, true
	}
	return nil, false
}

// mustIterate raises where v cannot be iterated over.
func (m *machine) mustIterate(v Value) []Value {
	items, ok := m.iterate(v)
	if !ok {
		raise("'%s' object is not iterable", typeName(v))
	}
	return items
}

// characters lists a string's characters.
func (m *machine) characters(s string) []Value {
	m.scan(len(s))
	n := utf8.RuneCountInString(s)
	m.use(int64(n) * 2 * valueSize)
	out := make([]Value, 0, n)
	for _, r := range s {
		out = append(out, string(r))
	}
	return out
}
