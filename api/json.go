package api

import (
	"bytes"
	"cmp"
	"encoding/json"
	"errors"
	"fmt"
	"math"
	"strconv"
	"strings"
	"unicode/utf8"
)

// Bounds of a document, beside its length.
const (
	// maxDepth is how deep objects and lists may nest.
	maxDepth = 64
	// maxMembers is how many fields an object may have.
	maxMembers = 4096
)

// member is a field of an object, with its value as it stands in the document.
type member struct {
	key string
	raw []byte
}

// checkJSON says whether data is one JSON document of valid UTF-8, whose objects
// have no field twice, within the bounds. What the other functions of this file
// take has passed it.
func checkJSON(data []byte) error {
	if !utf8.Valid(data) {
		return invalid("", "the body is not valid UTF-8 (at byte %d)", firstInvalid(data))
	}
	if depth(data) > maxDepth {
		return invalid("", "the body nests deeper than %d levels", maxDepth)
	}
	if err := json.Unmarshal(data, &skipped{}); err != nil {
		return syntaxError(err)
	}
	var f *fault
	if errors.As(checkValue(trim(data)), &f) {
		path := strings.TrimPrefix(f.path, ".")
		return invalid(path, "%s %s", cmp.Or(path, "the body"), f.message)
	}
	return nil
}

// skipped unmarshals from anything, and keeps nothing.
type skipped struct{}

func (*skipped) UnmarshalJSON([]byte) error { return nil }

func syntaxError(err error) *Error {
	var syntax *json.SyntaxError
	if errors.As(err, &syntax) {
		return invalid("", "the body is not valid JSON (at byte %d): %v", syntax.Offset, err)
	}
	return invalid("", "the body is not valid JSON: %v", err)
}

func firstInvalid(data []byte) int {
	for i := 0; i < len(data); {
		r, n := utf8.DecodeRune(data[i:])
		if r == utf8.RuneError && n == 1 {
			return i
		}
		i += n
	}
	return len(data)
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

// endOfString is the position after the string that starts at data[at].
func endOfString(data []byte, at int) int {
	for i := at + 1; i < len(data); i++ {
		switch data[i] {
		case '\\':
			i++
		case '"':
			return i + 1
		}
	}
	return len(data)
}

// endOfValue is the position after the value that starts at data[at].
func endOfValue(data []byte, at int) int {
	switch data[at] {
	case '"':
		return endOfString(data, at)
	case '{', '[':
		return endOfNested(data, at)
	}
	for i := at; i < len(data); i++ {
		switch data[i] {
		case ',', ']', '}', ' ', '\t', '\r', '\n':
			return i
		}
	}
	return len(data)
}

func endOfNested(data []byte, at int) int {
	deep := 0
	for i := at; i < len(data); i++ {
		switch data[i] {
		case '"':
			i = endOfString(data, i) - 1
		case '{', '[':
			deep++
		case '}', ']':
			if deep--; deep == 0 {
				return i + 1
			}
		}
	}
	return len(data)
}

func skipSpace(data []byte, at int) int {
	for at < len(data) && (data[at] == ' ' || data[at] == '\t' || data[at] == '\r' || data[at] == '\n') {
		at++
	}
	return at
}

// eachElement calls f with each element of a list.
func eachElement(list []byte, f func(i int, raw []byte) error) error {
	at := skipSpace(list, skipSpace(list, 0)+1)
	for i := 0; list[at] != ']'; i++ {
		end := endOfValue(list, at)
		if err := f(i, list[at:end]); err != nil {
			return err
		}
		if at = skipSpace(list, end); list[at] == ',' {
			at = skipSpace(list, at+1)
		}
	}
	return nil
}

// eachMember calls f with each field of an object, in order.
func eachMember(raw []byte, f func(m member) error) error {
	at := skipSpace(raw, skipSpace(raw, 0)+1)
	for raw[at] != '}' {
		end := endOfString(raw, at)
		key := unquote(raw[at:end])
		at = skipSpace(raw, skipSpace(raw, end)+1)
		end = endOfValue(raw, at)
		if err := f(member{key, raw[at:end]}); err != nil {
			return err
		}
		if at = skipSpace(raw, end); raw[at] == ',' {
			at = skipSpace(raw, at+1)
		}
	}
	return nil
}

// unquote is the text of a JSON string.
func unquote(raw []byte) string {
	if bytes.IndexByte(raw, '\\') < 0 {
		return string(raw[1 : len(raw)-1])
	}
	var s string
	if err := json.Unmarshal(raw, &s); err != nil {
		panic(fmt.Sprintf("api: a string that was checked does not decode: %v", err))
	}
	return s
}

// fault is what is wrong with a value, and where: the path is written from the
// inside out, on the way up.
type fault struct {
	path, message string
}

func (f *fault) Error() string { return f.message }

// inside adds the name of the value that holds the faulty one.
func inside(err error, name string) error {
	var f *fault
	if errors.As(err, &f) {
		f.path = name + f.path
	}
	return err
}

// checkValue refuses an object with a field twice or with too many, and half a
// surrogate pair, anywhere in the value.
func checkValue(raw []byte) error {
	switch raw[0] {
	case '"':
		return wholeCharacters(raw)
	case '[':
		if flat(raw) {
			return nil
		}
		return eachElement(raw, func(i int, e []byte) error {
			err := checkValue(e)
			if err != nil {
				return inside(err, "["+strconv.Itoa(i)+"]")
			}
			return nil
		})
	case '{':
		return checkMembers(raw)
	}
	return nil
}

// flat says that a list has no strings, lists or objects in it.
func flat(list []byte) bool { return !bytes.ContainsAny(list[1:], "\"[{") }

func checkMembers(raw []byte) error {
	seen := map[string]bool{}
	return eachMember(raw, func(m member) error {
		if seen[m.key] {
			return &fault{"." + clipped(m.key), "is given twice"}
		}
		if len(seen) == maxMembers {
			return &fault{"", fmt.Sprintf("has more than %d fields", maxMembers)}
		}
		seen[m.key] = true
		if err := checkValue(m.raw); err != nil {
			return inside(err, "."+clipped(m.key))
		}
		return nil
	})
}

// wholeCharacters refuses \ud800 without its other half, which decodes to no
// character.
func wholeCharacters(raw []byte) error {
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
			return &fault{"", fmt.Sprintf("has half a surrogate pair, %s", raw[i:i+6])}
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

// kind names a value's type, for messages.
func kind(raw []byte) string {
	switch raw[0] {
	case '"':
		return "a string"
	case '{':
		return "an object"
	case '[':
		return "a list"
	case 't', 'f':
		return "a boolean"
	case 'n':
		return "null"
	default:
		return "a number"
	}
}

func isNull(raw []byte) bool { return raw[0] == 'n' }

// integer reads a whole number. 3.0 and 3e0 are whole.
func integer(raw []byte) (int64, bool) {
	if n, err := strconv.ParseInt(string(raw), 10, 64); err == nil {
		return n, true
	}
	f, err := strconv.ParseFloat(string(raw), 64)
	if err != nil || f != math.Trunc(f) || math.Abs(f) > 1<<53 {
		return 0, false
	}
	return int64(f), true
}

// number reads any number; not one that is too large for a float64.
func number(raw []byte) (float64, bool) {
	f, err := strconv.ParseFloat(string(raw), 64)
	return f, err == nil
}

// countElements is how many elements a list has; at least that where its
// elements are lists, objects or strings.
func countElements(list []byte) int {
	return bytes.Count(list, []byte{','}) + 1
}

// quote is a text as a JSON string.
func quote(s string) []byte { return encode(s) }

// encode is JSON without HTML's escapes.
func encode(v any) []byte {
	var b bytes.Buffer
	e := json.NewEncoder(&b)
	e.SetEscapeHTML(false)
	if err := e.Encode(v); err != nil {
		panic(fmt.Sprintf("api: %T does not encode: %v", v, err))
	}
	return bytes.TrimSuffix(b.Bytes(), []byte{'\n'})
}
