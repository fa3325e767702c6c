package checkpoint

import (
	"encoding/json"
	"math"
)

// scanner reads the JSON that a header may hold in one pass: objects, strings and
// lists of integers. A header of a large model has 100,000 tensors; encoding/json
// looks at each four times.
type scanner struct {
	text []byte
	at   int
}

// skipSpace goes to the next byte that means something, and returns it; 0 at the
// end (which no JSON has elsewhere).
func (s *scanner) skipSpace() byte {
	for ; s.at < len(s.text); s.at++ {
		switch c := s.text[s.at]; c {
		case ' ', '\t', '\n', '\r':
		default:
			return c
		}
	}
	return 0
}

// take goes past a byte where it is the next one.
func (s *scanner) take(c byte) bool {
	if s.skipSpace() != c || s.at == len(s.text) {
		return false
	}
	s.at++
	return true
}

// str reads a string.
func (s *scanner) str() (string, bool) {
	if !s.take('"') {
		return "", false
	}
	ascii := true
	for i, c := range s.text[s.at:] {
		switch {
		case c == '\\', c == '"' && !ascii:
			return s.escaped()
		case c == '"':
			v := string(s.text[s.at : s.at+i])
			s.at += i + 1
			return v, true
		case c < ' ':
			return "", false
		case c >= 0x80:
			ascii = false
		}
	}
	return "", false
}

// escaped reads a string that has escapes, or letters beyond ASCII, whose opening
// quote was taken.
func (s *scanner) escaped() (string, bool) {
	end := s.at
	for ; end < len(s.text) && s.text[end] != '"'; end++ {
		if s.text[end] == '\\' {
			end++
		}
	}
	if end >= len(s.text) {
		return "", false
	}
	var v string
	if json.Unmarshal(s.text[s.at-1:end+1], &v) != nil {
		return "", false
	}
	s.at = end + 1
	return v, true
}

// integer reads a whole number that fits.
func (s *scanner) integer() (int64, bool) {
	negative := s.take('-')
	if !negative {
		s.skipSpace()
	}
	digits := s.at
	var n int64
	for ; s.at < len(s.text) && s.text[s.at] >= '0' && s.text[s.at] <= '9'; s.at++ {
		d := int64(s.text[s.at] - '0')
		if n > (math.MaxInt64-d)/10 {
			return 0, false
		}
		n = n*10 + d
	}
	if negative {
		n = -n
	}
	length := s.at - digits
	leading := length > 1 && s.text[digits] == '0'
	return n, length > 0 && !leading
}

// integers reads a list of at most so many whole numbers; more says that the list
// goes on.
func (s *scanner) integers(limit int) (list []int64, more, ok bool) {
	if !s.take('[') {
		return nil, false, false
	}
	list = []int64{}
	if s.take(']') {
		return list, false, true
	}
	for {
		if len(list) == limit {
			return list, true, true
		}
		n, ok := s.integer()
		if !ok {
			return nil, false, false
		}
		list = append(list, n)
		switch {
		case s.take(']'):
			return list, false, true
		case !s.take(','):
			return nil, false, false
		}
	}
}

// members reads {"name": …, …} and calls value after each name, which reads what
// follows. It ends where value returns an error; ok is false where the JSON is
// broken.
func (s *scanner) members(value func(name string) error) (ok bool, err error) {
	if !s.take('{') {
		return false, nil
	}
	if s.take('}') {
		return true, nil
	}
	for {
		name, ok := s.str()
		if !ok {
			return false, nil
		}
		if err := value(name); err != nil {
			return true, err
		}
		switch {
		case s.take('}'):
			return true, nil
		case !s.take(','):
			return false, nil
		}
	}
}
