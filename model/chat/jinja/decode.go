package jinja

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"iter"
	"math/big"
	"strconv"
	"strings"
)

// All yields the entries whose keys are strings, in order.
func (d *Dict) All() iter.Seq2[string, Value] {
	return func(yield func(string, Value) bool) {
		for i, k := range d.keys {
			if s, ok := k.(string); ok && !yield(s, d.values[i]) {
				return
			}
		}
	}
}

// maxJSONDepth bounds how deep JSON nests.
const maxJSONDepth = 500

// FromJSON reads one JSON value, as Python's json.loads does: objects keep the
// order of their fields, and of a field that comes twice the last value counts.
func FromJSON(data []byte) (Value, error) {
	d := json.NewDecoder(bytes.NewReader(data))
	d.UseNumber()
	v, err := decode(d, 0)
	if errors.Is(err, io.EOF) {
		err = io.ErrUnexpectedEOF
	}
	if err != nil {
		return nil, fmt.Errorf("JSON at byte %d: %w", d.InputOffset(), err)
	}
	if _, err := d.Token(); !errors.Is(err, io.EOF) {
		return nil, fmt.Errorf("JSON at byte %d: more than one value", d.InputOffset())
	}
	return v, nil
}

func decode(d *json.Decoder, depth int) (Value, error) {
	if depth > maxJSONDepth {
		return nil, fmt.Errorf("nested deeper than %d", maxJSONDepth)
	}
	t, err := d.Token()
	if err != nil {
		return nil, err
	}
	switch t := t.(type) {
	case json.Number:
		return number(string(t))
	case json.Delim:
		if t == '[' {
			return decodeList(d, depth)
		}
		return decodeDict(d, depth)
	}
	return t, nil // string, bool or nil
}

func decodeList(d *json.Decoder, depth int) (Value, error) {
	l := &List{}
	for d.More() {
		v, err := decode(d, depth+1)
		if err != nil {
			return nil, err
		}
		l.Items = append(l.Items, v)
	}
	_, err := d.Token()
	return l, err
}

func decodeDict(d *json.Decoder, depth int) (Value, error) {
	out := NewDict()
	for d.More() {
		key, err := d.Token()
		if err != nil {
			return nil, err
		}
		v, err := decode(d, depth+1)
		if err != nil {
			return nil, err
		}
		out.Set(key.(string), v)
	}
	_, err := d.Token()
	return out, err
}

// number is an int where it has neither point nor exponent, else a float.
func number(s string) (Value, error) {
	if strings.ContainsAny(s, ".eE") {
		f, err := strconv.ParseFloat(s, 64)
		if err != nil && f == 0 {
			return nil, err
		}
		return f, nil // infinite where it is too large, as in Python
	}
	i, ok := new(big.Int), len(s) <= maxDigits
	if ok {
		i, ok = i.SetString(s, 10)
	}
	if !ok {
		return nil, fmt.Errorf("an integer of %d digits; at most %d are taken", len(s), maxDigits)
	}
	return integer64(i), nil
}
