package strictjson

import (
	"bytes"
	"encoding/json"
	"fmt"
	"iter"
)

// Member is a field of an object.
type Member struct {
	Name string
	Element
}

// Element is a value as it stands in the document.
type Element struct {
	Value []byte
	// At is where the value begins in the text of the object or list around it.
	At int
}

// Trim is a text without JSON's space around it.
func Trim(text []byte) []byte { return bytes.Trim(text, " \t\r\n") }

// Members are an object's fields, in order.
func Members(object []byte) iter.Seq[Member] {
	return func(yield func(Member) bool) {
		at := skipSpace(object, 1)
		for object[at] != '}' {
			end := endOfString(object, at)
			name := Text(object[at:end])
			at = skipSpace(object, skipSpace(object, end)+1)
			end = endOfValue(object, at)
			if !yield(Member{name, Element{object[at:end], at}}) {
				return
			}
			if at = skipSpace(object, end); object[at] == ',' {
				at = skipSpace(object, at+1)
			}
		}
	}
}

// Elements are a list's values, in order.
func Elements(list []byte) iter.Seq2[int, Element] {
	return func(yield func(int, Element) bool) {
		at := skipSpace(list, 1)
		for i := 0; list[at] != ']'; i++ {
			end := endOfValue(list, at)
			if !yield(i, Element{list[at:end], at}) {
				return
			}
			if at = skipSpace(list, end); list[at] == ',' {
				at = skipSpace(list, at+1)
			}
		}
	}
}

// Text is what a JSON string says.
func Text(raw []byte) string {
	if bytes.IndexByte(raw, '\\') < 0 {
		return string(raw[1 : len(raw)-1])
	}
	var s string
	if err := json.Unmarshal(raw, &s); err != nil {
		panic(fmt.Sprintf("strictjson: a string that was checked does not decode: %v", err))
	}
	return s
}

// IsNull says that a value is null.
func IsNull(raw []byte) bool { return raw[0] == 'n' }

// Kind names a value's type, for messages.
func Kind(raw []byte) string {
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
