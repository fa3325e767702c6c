// Package strictjson owns how JSON from outside is read where two readings of one
// text would do harm: a request's body, a model's configuration, the header of a
// file of weights. Check refuses what readers disagree on, and bounds the rest;
// Members and Elements then take apart what passed it, without a copy. It knows no
// field: which there may be, and of what kind, is its callers'.
//
// Files that others read by Python's json.loads, where of a field that comes twice
// the last value counts, are not for this package: model/chat and model/tokenizer
// read those as Python does.
package strictjson

import (
	"bytes"
	"cmp"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"unicode/utf8"

	"github.com/tandem-moe/tandem/internal/clip"
)

// Limits bound a document, beside its length.
type Limits struct {
	// Depth is how deep objects and lists may nest.
	Depth int
	// Members is how many fields an object may have.
	Members int
}

// Error is what is wrong with a document.
type Error struct {
	// Path names the value that is wrong, "a.b[3]"; it is empty for the document.
	Path string
	// At is the byte of the document where the fault is, −1 where it has no one
	// place.
	At int64
	// Reason is what is wrong, for a sentence that begins with the value's name.
	Reason string
	// Err is what encoding/json says of a text that is not JSON, else nil.
	Err error
}

// Error is a sentence about the document.
func (e *Error) Error() string { return cmp.Or(e.Path, "the document") + " " + e.Problem() }

// Problem is the sentence without its subject.
func (e *Error) Problem() string {
	text := e.Reason
	if e.At >= 0 {
		text += fmt.Sprintf(" (at byte %d)", e.At)
	}
	if e.Err != nil {
		text += ": " + e.Err.Error()
	}
	return text
}

// Unwrap is the error of encoding/json.
func (e *Error) Unwrap() error { return e.Err }

// Check says whether data is one JSON document of valid UTF-8 in which no object
// has a field twice and no string half a surrogate pair, within the limits. Its
// error is an *Error. The other functions of this package take values of documents
// that passed, without space around them (see Trim).
func Check(data []byte, limits Limits) error {
	if !utf8.Valid(data) {
		return &Error{At: firstInvalid(data), Reason: "is not valid UTF-8"}
	}
	if depth(data) > limits.Depth {
		return &Error{At: -1, Reason: fmt.Sprintf("nests deeper than %d levels", limits.Depth)}
	}
	if !json.Valid(data) {
		return syntaxError(data)
	}
	c := checker{limits}
	start := skipSpace(data, 0)
	if f := c.value(Trim(data), start); f != nil {
		f.Path = strings.TrimPrefix(f.Path, ".")
		return f
	}
	return nil
}

// Object is Check, and that the document is an object, whose text it returns.
func Object(data []byte, limits Limits) ([]byte, error) {
	if start := skipSpace(data, 0); start == len(data) || data[start] != '{' {
		return nil, &Error{At: int64(start), Reason: "is not a JSON object"}
	}
	if err := Check(data, limits); err != nil {
		return nil, err
	}
	return Trim(data), nil
}

// syntaxError is what encoding/json says of a text that is not JSON.
func syntaxError(data []byte) *Error {
	err := json.Unmarshal(data, new(any))
	e := &Error{At: -1, Reason: "is not valid JSON", Err: err}
	var syntax *json.SyntaxError
	if errors.As(err, &syntax) {
		e.At = syntax.Offset
	}
	return e
}

func firstInvalid(data []byte) int64 {
	for i := 0; i < len(data); {
		r, n := utf8.DecodeRune(data[i:])
		if r == utf8.RuneError && n == 1 {
			return int64(i)
		}
		i += n
	}
	return int64(len(data))
}

// depth is how deep brackets nest outside of strings, whether or not the data is
// valid.
func depth(data []byte) int {
	deep, deepest := 0, 0
	for i := 0; i < len(data); i++ {
		switch data[i] {
		case '"':
			i = endOfString(data, i) - 1
		case '{', '[':
			deep++
			deepest = max(deepest, deep)
		case '}', ']':
			deep--
		}
	}
	return deepest
}

// checker looks into the values of a document that is valid JSON.
type checker struct{ limits Limits }

// value checks a value that starts at a byte of the document. The path of a fault
// is written from the inside out, on the way up.
func (c checker) value(raw []byte, at int) *Error {
	switch raw[0] {
	case '"':
		return wholeCharacters(raw)
	case '[':
		return c.elements(raw, at)
	case '{':
		return c.members(raw, at)
	}
	return nil
}

func (c checker) elements(raw []byte, at int) *Error {
	if flat(raw) {
		return nil
	}
	for i, e := range Elements(raw) {
		if f := c.value(e.Value, at+e.At); f != nil {
			f.Path = "[" + strconv.Itoa(i) + "]" + f.Path
			return f
		}
	}
	return nil
}

// flat says that a list has no strings, lists or objects in it.
func flat(list []byte) bool { return !bytes.ContainsAny(list[1:], "\"[{") }

func (c checker) members(raw []byte, at int) *Error {
	var seen names
	for m := range Members(raw) {
		name := "." + clip.Text(m.Name, maxQuoted)
		if seen.has(m.Name) {
			return &Error{Path: name, At: int64(at + m.At), Reason: "is given twice"}
		}
		if seen.count == c.limits.Members {
			return &Error{At: -1, Reason: fmt.Sprintf("has more than %d fields", c.limits.Members)}
		}
		seen.add(m.Name)
		if f := c.value(m.Value, at+m.At); f != nil {
			f.Path = name + f.Path
			return f
		}
	}
	return nil
}

// maxQuoted bounds how much of a name an error repeats, in bytes.
const maxQuoted = 80 + len("…")

// names is a set. Most objects have a few, for which a list is cheaper than a map:
// a header of weights has 100,000 objects of three.
type names struct {
	count int
	few   [8]string
	many  map[string]bool
}

func (n *names) has(name string) bool {
	return slices.Contains(n.few[:min(n.count, len(n.few))], name) || n.many[name]
}

func (n *names) add(name string) {
	switch {
	case n.count < len(n.few):
		n.few[n.count] = name
	case n.many == nil:
		n.many = map[string]bool{name: true}
	default:
		n.many[name] = true
	}
	n.count++
}

// wholeCharacters refuses \ud800 without its other half, which decodes to no
// character.
func wholeCharacters(raw []byte) *Error {
	if bytes.IndexByte(raw, '\\') < 0 {
		return nil
	}
	for i := 0; i < len(raw)-1; i++ {
		if raw[i] != '\\' {
			continue
		}
		if raw[i+1] != 'u' {
			i++
			continue
		}
		n := escaped(raw[i:])
		if n == 0 {
			return &Error{At: -1, Reason: fmt.Sprintf("has half a surrogate pair, %s", raw[i:i+6])}
		}
		i += n - 1
	}
	return nil
}

// escaped is the length of the \u escape (or pair of them) that raw starts with;
// 0 where it is half a pair.
func escaped(raw []byte) int {
	first := unit(raw)
	switch {
	case first < 0xd800 || first > 0xdfff:
		return 6
	case first > 0xdbff:
		return 0
	}
	if second := unit(raw[6:]); second >= 0xdc00 && second <= 0xdfff {
		return 12
	}
	return 0
}

// unit is the number of a \u escape, −1 where raw starts with none.
func unit(raw []byte) int64 {
	if len(raw) < 6 || raw[0] != '\\' || raw[1] != 'u' {
		return -1
	}
	n, err := strconv.ParseInt(string(raw[2:6]), 16, 32)
	if err != nil {
		return -1
	}
	return n
}
