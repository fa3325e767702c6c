package api

import (
	"bytes"
	"encoding/json"
	"fmt"
	"strings"

	"github.com/tandem-moe/tandem/internal/clip"
	"github.com/tandem-moe/tandem/internal/strictjson"
)

// A rule takes the value of a field. It is not called for null, which is the
// same as leaving the field out.
type rule func(name string, raw []byte) error

// fields are the known fields of an object.
type fields map[string]rule

// decode takes an object apart. path is the object's own name, empty for the
// body.
func (f fields) decode(p *Parser, path string, raw []byte) error {
	if raw[0] != '{' {
		return wrongType(path, "an object", raw)
	}
	for m := range strictjson.Members(raw) {
		if err := f.take(p, path, m); err != nil {
			return err
		}
	}
	return nil
}

// take applies the rule of one field.
func (f fields) take(p *Parser, path string, m strictjson.Member) error {
	name := join(path, m.Name)
	rule, ok := f[m.Name]
	if !ok {
		return p.unknown(f, name, m.Name)
	}
	if strictjson.IsNull(m.Value) {
		return nil
	}
	return rule(name, m.Value)
}

// join names a field of an object.
func join(path, key string) string {
	if path == "" {
		return clipped(key)
	}
	return path + "." + clipped(key)
}

func wrongType(name, want string, raw []byte) *Error {
	if name == "" {
		name = "the body"
	}
	e := invalid(strings.TrimPrefix(name, "the body"), "%s must be %s, and is %s", name, want, strictjson.Kind(raw))
	e.Code = "invalid_type"
	return e
}

// text takes a string.
func text(into *string) rule {
	return func(name string, raw []byte) error {
		if raw[0] != '"' {
			return wrongType(name, "a string", raw)
		}
		*into = strictjson.Text(raw)
		return nil
	}
}

// boolean takes true or false.
func boolean(into *bool) rule {
	return func(name string, raw []byte) error {
		if raw[0] != 't' && raw[0] != 'f' {
			return wrongType(name, "a boolean", raw)
		}
		*into = raw[0] == 't'
		return nil
	}
}

// optional takes what a rule for T takes, and remembers that it was there.
func optional[T any](of func(*T) rule, into **T) rule {
	return func(name string, raw []byte) error {
		value := new(T)
		if err := of(value)(name, raw); err != nil {
			return err
		}
		*into = value
		return nil
	}
}

// whole takes an integer within bounds.
func whole[T int | int64](low, high T) func(*T) rule {
	return func(into *T) rule {
		return func(name string, raw []byte) error {
			if strictjson.Kind(raw) != "a number" {
				return wrongType(name, "an integer", raw)
			}
			n, ok := integer(raw)
			if !ok {
				return invalid(name, "%s must be an integer, and is %s", name, short(raw))
			}
			if n < int64(low) || n > int64(high) {
				return outOfRange(name, raw, low, high)
			}
			*into = T(n)
			return nil
		}
	}
}

// decimal takes a number within bounds.
func decimal(low, high float64) func(*float64) rule {
	return func(into *float64) rule {
		return func(name string, raw []byte) error {
			if strictjson.Kind(raw) != "a number" {
				return wrongType(name, "a number", raw)
			}
			f, ok := number(raw)
			if !ok || f < low || f > high {
				return outOfRange(name, raw, low, high)
			}
			*into = f
			return nil
		}
	}
}

func outOfRange(name string, raw []byte, low, high any) *Error {
	e := invalid(name, "%s must lie between %v and %v, and is %s", name, low, high, short(raw))
	e.Code = "out_of_range"
	return e
}

// short is a value for a message.
func short(raw []byte) string { return clipped(string(raw[:min(len(raw), maxQuoted+1)])) }

// maxQuoted is how much of a client's text a message repeats, in bytes.
const maxQuoted = 80 + len("…")

// clipped is a client's text for a message.
func clipped(text string) string { return clip.Text(text, maxQuoted) }

// list takes a list of at most most values.
func list[T any](item func(*T) rule, most int) func(*[]T) rule {
	return func(into *[]T) rule {
		return func(name string, raw []byte) error {
			if raw[0] != '[' {
				return wrongType(name, "a list", raw)
			}
			*into = make([]T, 0, min(most, countElements(raw)))
			for i, e := range strictjson.Elements(raw) {
				if i == most {
					return invalid(name, "%s has more than %d entries", name, most)
				}
				var value T
				if err := item(&value)(fmt.Sprintf("%s[%d]", name, i), e.Value); err != nil {
					return err
				}
				*into = append(*into, value)
			}
			return nil
		}
	}
}

// tokenIDs takes a list of token ids. It is list(whole(…)) for long lists.
func tokenIDs(into *[]int32) rule {
	return func(name string, raw []byte) error {
		if raw[0] != '[' {
			return wrongType(name, "a list of token ids", raw)
		}
		ids := make([]int32, 0, countElements(raw))
		for i, e := range strictjson.Elements(raw) {
			id, ok := integer(e.Value)
			if !ok || id != int64(int32(id)) {
				return invalid(name, "%s[%d] must be a token id, and is %s", name, i, short(e.Value))
			}
			ids = append(ids, int32(id))
		}
		*into = ids
		return nil
	}
}

// harmless fields leave the answer as it is.
func harmless(string, []byte) error { return nil }

// refused fields would change the answer, and are not implemented.
func refused(reason string) rule {
	return func(name string, _ []byte) error { return unsupported(name, reason) }
}

// only accepts the values under which a field changes nothing, as they are
// written in JSON.
func only(reason string, values ...string) rule {
	return func(name string, raw []byte) error {
		for _, v := range values {
			if sameValue(raw, v) {
				return nil
			}
		}
		return unsupported(name, fmt.Sprintf("%s; %s was sent", reason, short(raw)))
	}
}

// sameValue compares JSON values: numbers by what they are worth.
func sameValue(raw []byte, want string) bool {
	if strictjson.Kind(raw) == "a number" && strictjson.Kind([]byte(want)) == "a number" {
		a, okA := number(raw)
		b, okB := number([]byte(want))
		return okA && okB && a == b
	}
	var compact bytes.Buffer
	if err := json.Compact(&compact, raw); err != nil {
		return false
	}
	return compact.String() == want
}
