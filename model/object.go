package model

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"sort"
	"strconv"
	"strings"

	"github.com/tandem-moe/tandem/internal/strictjson"
)

// FieldError is a field of a configuration file that cannot be used.
type FieldError struct {
	// File is the file's name, Field the field's path inside it.
	File, Field string
	// Value is the field's JSON, shortened; empty where the field is missing.
	Value  string
	Reason string
}

func (e *FieldError) Error() string {
	if e.Value == "" {
		return fmt.Sprintf("%s: %s: %s", e.File, e.Field, e.Reason)
	}
	return fmt.Sprintf("%s: %s = %s: %s", e.File, e.Field, e.Value, e.Reason)
}

// object is a JSON object whose fields are taken one by one. The first field
// that cannot be read is kept in err, so that readers need no error checks; what
// nobody took is found by left.
type object struct {
	file   string
	prefix string
	fields map[string]json.RawMessage
	taken  map[string]bool
	err    *error
}

// limits bound a configuration. Some list a name for each of 20,000 classes.
var limits = strictjson.Limits{Depth: 64, Members: 1 << 17}

// parseObject reads a file of one JSON object. A repeated name, at any depth, is an
// error: readers elsewhere disagree on which one counts.
func parseObject(file string, data []byte, err *error) object {
	text, e := strictjson.Object(data, limits)
	if e != nil {
		o := newObject(file, "", []byte("{}"), err)
		o.keep(refused(file, e))
		return o
	}
	return newObject(file, "", text, err)
}

// refused names the file, and the field where one is wrong.
func refused(file string, err error) error {
	var e *strictjson.Error
	switch {
	case !errors.As(err, &e):
		return fmt.Errorf("%s: %w", file, err)
	case e.Path == "":
		return fmt.Errorf("%s %s", file, e.Problem())
	}
	return &FieldError{File: file, Field: e.Path, Reason: e.Problem()}
}

// newObject takes apart an object that was checked.
func newObject(file, prefix string, raw []byte, err *error) object {
	o := object{file: file, prefix: prefix, fields: map[string]json.RawMessage{}, taken: map[string]bool{}, err: err}
	for m := range strictjson.Members(raw) {
		o.fields[m.Name] = m.Value
	}
	return o
}

// object returns the object in a field; one without fields where it is missing, and
// where it is something else, which is an error.
func (o *object) object(name string) object {
	raw := o.take(name)
	if raw != nil && raw[0] != '{' {
		o.fail(name, "is not a JSON object")
	}
	if raw == nil || raw[0] != '{' {
		raw = json.RawMessage("{}")
	}
	return newObject(o.file, o.prefix+name+".", raw, o.err)
}

// keep remembers the first error.
func (o *object) keep(err error) {
	if *o.err == nil {
		*o.err = err
	}
}

// problem is an error about a field, with the value that it has.
func (o *object) problem(name, format string, args ...any) error {
	return &FieldError{File: o.file, Field: o.prefix + cut(name), Value: shorten(o.fields[name]),
		Reason: fmt.Sprintf(format, args...)}
}

// fail keeps a problem. It costs nothing after the first: a list may have many.
func (o *object) fail(name, format string, args ...any) {
	if *o.err == nil {
		*o.err = o.problem(name, format, args...)
	}
}

// longestText bounds what a message repeats of a file.
const longestText = 60

// cut shortens a text for a message.
func cut(s string) string {
	if len(s) <= longestText {
		return s
	}
	return strings.ToValidUTF8(s[:longestText], "") + "…"
}

// shorten is a value's JSON without spaces, cut.
func shorten(raw json.RawMessage) string {
	var b bytes.Buffer
	if json.Compact(&b, raw) != nil {
		return ""
	}
	return cut(b.String())
}

// take returns a field's value, nil where it is missing or null.
func (o *object) take(name string) json.RawMessage {
	o.taken[name] = true
	raw := o.fields[name]
	if string(raw) == "null" {
		return nil
	}
	return raw
}

// has says whether the field is there and not null, without taking it.
func (o *object) has(name string) bool {
	raw, ok := o.fields[name]
	return ok && string(raw) != "null"
}

// integer reads a whole number from lo to hi. A missing field is def, or an
// error where def is nil.
func (o *object) integer(name string, def *int, lo, hi int) int {
	raw := o.take(name)
	if raw == nil {
		if def == nil {
			o.fail(name, "is missing")
			return lo
		}
		return *def
	}
	n, err := strconv.Atoi(string(raw))
	if err != nil {
		o.fail(name, "is not a whole number")
		return lo
	}
	if n < lo || n > hi {
		o.fail(name, "is not from %d to %d", lo, hi)
		return lo
	}
	return n
}

// largestNumber bounds numbers that are no counts, far above any in use, so that
// what is computed from them stays finite.
const largestNumber = 1e12

// number reads a finite number; a missing field is def. There is no negative
// zero, so that equal values have equal text.
func (o *object) number(name string, def float64) float64 {
	raw := o.take(name)
	if raw == nil {
		return def
	}
	var x float64
	if json.Unmarshal(raw, &x) != nil {
		o.fail(name, "is not a number that fits in 64 bits")
	}
	if x == 0 {
		return 0
	}
	return x
}

// between reads a number from lo to hi; a missing field is def.
func (o *object) between(name string, def, lo, hi float64) float64 {
	x := o.number(name, def)
	if o.has(name) && (x < lo || x > hi) {
		o.fail(name, "is not from %g to %g", lo, hi)
		return def
	}
	return x
}

// positive reads a number above zero and up to hi; a missing field is def.
func (o *object) positive(name string, def, hi float64) float64 {
	x := o.number(name, def)
	if o.has(name) && (x <= 0 || x > hi) {
		o.fail(name, "is not above 0 and at most %g", hi)
		return def
	}
	return x
}

// boolean reads true or false; a missing field is def.
func (o *object) boolean(name string, def bool) bool {
	switch raw := o.take(name); string(raw) {
	case "":
		return def
	case "true":
		return true
	case "false":
		return false
	}
	o.fail(name, "is not true or false")
	return def
}

// text reads a string; a missing field is def.
func (o *object) text(name, def string) string {
	raw := o.take(name)
	if raw == nil {
		return def
	}
	var s string
	if json.Unmarshal(raw, &s) != nil {
		o.fail(name, "is not a string")
	}
	return s
}

// integers reads a list of whole numbers from lo to hi; missing is nil.
func (o *object) integers(name string, lo, hi int) []int {
	raw := o.take(name)
	if raw == nil {
		return nil
	}
	var list []int
	if json.Unmarshal(raw, &list) != nil {
		o.fail(name, "is not a list of whole numbers")
	}
	for _, n := range list {
		if n < lo || n > hi {
			o.fail(name, "%d is not from %d to %d", n, lo, hi)
		}
	}
	return list
}

// ids reads a token id, a list of them, or nothing.
func (o *object) ids(name string, vocabulary int) []int32 {
	raw := o.take(name)
	if raw == nil {
		return nil
	}
	if raw[0] != '[' {
		raw = json.RawMessage("[" + string(raw) + "]")
	}
	var list []int64
	if json.Unmarshal(raw, &list) != nil {
		o.fail(name, "is not a token id or a list of them")
	}
	var ids []int32
	for _, id := range list {
		if id < 0 || id >= int64(vocabulary) {
			o.fail(name, "%d is not in the vocabulary of %d", id, vocabulary)
		}
		ids = append(ids, int32(id))
	}
	return ids
}

// left returns the names that nobody took, sorted.
func (o *object) left() []string {
	var names []string
	for name := range o.fields {
		if !o.taken[name] {
			names = append(names, name)
		}
	}
	sort.Strings(names)
	return names
}
