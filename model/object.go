package model

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"sort"
	"strconv"
	"strings"
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

// parseObject reads the top level of one JSON object. A repeated name is an
// error: readers elsewhere disagree on which one counts.
func parseObject(file, prefix string, data []byte, err *error) object {
	o := object{file: file, prefix: prefix, fields: map[string]json.RawMessage{}, taken: map[string]bool{}, err: err}
	if e := o.scan(data); e != nil {
		o.keep(e)
	}
	return o
}

func (o *object) scan(data []byte) error {
	d := json.NewDecoder(bytes.NewReader(data))
	if t, err := d.Token(); err != nil || t != json.Delim('{') {
		return o.syntax(d, err, "is not a JSON object")
	}
	for d.More() {
		t, err := d.Token()
		name, ok := t.(string)
		if err != nil || !ok {
			return o.syntax(d, err, "a field's name is missing")
		}
		var value json.RawMessage
		if err := d.Decode(&value); err != nil {
			return o.syntax(d, err, "the value of "+cut(name)+" cannot be read")
		}
		if _, twice := o.fields[name]; twice {
			return o.problem(name, "is given twice")
		}
		o.fields[name] = value
	}
	if _, err := d.Token(); err != nil {
		return o.syntax(d, err, "the object does not end")
	}
	if _, err := d.Token(); !errors.Is(err, io.EOF) {
		return o.syntax(d, nil, "something follows the object")
	}
	return nil
}

func (o *object) syntax(d *json.Decoder, err error, what string) error {
	at := o.file
	if o.prefix != "" {
		at += ": " + strings.TrimSuffix(o.prefix, ".")
	}
	if err == nil {
		return fmt.Errorf("%s: %s (at byte %d)", at, what, d.InputOffset())
	}
	if errors.Is(err, io.EOF) {
		err = io.ErrUnexpectedEOF
	}
	return fmt.Errorf("%s: %s (at byte %d): %w", at, what, d.InputOffset(), err)
}

// keep remembers the first error.
func (o *object) keep(err error) {
	if *o.err == nil {
		*o.err = err
	}
}

// problem is an error about a field, with the value that it has.
func (o *object) problem(name, format string, args ...any) error {
	return &FieldError{File: o.file, Field: o.prefix + cut(name), Value: shorten(o.fields[name]), Reason: fmt.Sprintf(format, args...)}
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
