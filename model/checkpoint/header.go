package checkpoint

import (
	"encoding/binary"
	"encoding/json"
	"fmt"
	"math"
	"slices"
	"sort"
	"strings"
)

const (
	// lengthBytes is the size of the header's length.
	lengthBytes = 8
	// maxHeader bounds a header, and an index: it has room for maxTensors, and is
	// read in a second. (The format's own implementation stops at 100 MB.)
	maxHeader = 32 << 20
	// maxTensors bounds the tensors of a checkpoint. The largest published ones
	// have some 100,000.
	maxTensors = 1 << 18
	// maxName bounds a tensor's name, in bytes.
	maxName = 1 << 10
	// maxRank bounds a shape.
	maxRank = 8
	// metadataKey is the one name in a header that is no tensor.
	metadataKey = "__metadata__"
)

// FormatError is a file that breaks the format, or that disagrees with another.
type FormatError struct {
	File string
	// Tensor is empty where the trouble is not one tensor's.
	Tensor string
	// Offset is the byte of the file where the trouble is.
	Offset int64
	Reason string
}

func (e *FormatError) Error() string {
	if e.Tensor == "" {
		return fmt.Sprintf("%s: %s (at byte %d)", e.File, e.Reason, e.Offset)
	}
	return fmt.Sprintf("%s: tensor %q: %s (at byte %d)", e.File, e.Tensor, e.Reason, e.Offset)
}

// entry is a tensor in a header. begin and end are offsets into the data.
type entry struct {
	name       string
	dtype      DType
	shape      []int
	begin, end int64
}

// header is what a file holds. Entries are in the order of their data.
type header struct {
	// data is the offset of the data in the file.
	data     int64
	entries  []entry
	metadata map[string]string
}

// parseHeader reads and validates the header of a file of size bytes whose
// beginning is file: at least the header itself, where it is whole.
func parseHeader(name string, file []byte, size int64) (*header, error) {
	p := &headerParser{file: name}
	text, err := p.frame(file, size)
	if err != nil {
		return nil, err
	}
	h := &header{data: lengthBytes + int64(len(text))}
	if err := p.object(text, h); err != nil {
		return nil, err
	}
	sort.Slice(h.entries, func(i, j int) bool { return before(h.entries[i], h.entries[j]) })
	if err := h.cover(name, size); err != nil {
		return nil, err
	}
	return h, nil
}

// before orders entries by data; an empty tensor comes before the one that
// starts where it does.
func before(a, b entry) bool {
	if a.begin != b.begin {
		return a.begin < b.begin
	}
	if a.end != b.end {
		return a.end < b.end
	}
	return a.name < b.name
}

// headerParser makes errors that name the file.
type headerParser struct{ file string }

func (p *headerParser) fail(tensor string, at int64, format string, args ...any) error {
	return &FormatError{File: p.file, Tensor: tensor, Offset: at, Reason: fmt.Sprintf(format, args...)}
}

// frame returns the header's JSON.
func (p *headerParser) frame(file []byte, size int64) ([]byte, error) {
	if len(file) < lengthBytes {
		return nil, p.fail("", 0, "the file has %d bytes, too few for a header's length", size)
	}
	n := binary.LittleEndian.Uint64(file)
	if n > maxHeader {
		return nil, p.fail("", 0, "the header's length is %d, the limit is %d: this is no safetensors file", n, maxHeader)
	}
	if n > uint64(len(file)-lengthBytes) {
		return nil, p.fail("", lengthBytes, "the header's length is %d, and %d bytes follow it: the file is truncated", n, size-lengthBytes)
	}
	return file[lengthBytes : lengthBytes+n], nil
}

// object reads {"name": tensor, …}. Names must differ.
func (p *headerParser) object(text []byte, h *header) error {
	s := &scanner{text: text}
	at := func() int64 { return lengthBytes + int64(s.at) }
	if s.skipSpace() != '{' {
		return p.fail("", lengthBytes, "the header is not a JSON object")
	}
	seen := map[string]bool{}
	ok, err := s.members(func(name string) error {
		switch {
		case len(name) > maxName:
			return p.fail("", at(), "a name has %d bytes, the limit is %d", len(name), maxName)
		case seen[name]:
			return p.fail(name, at(), "the name is given twice")
		case name != metadataKey && len(h.entries) == maxTensors:
			return p.fail("", at(), "the header has more than %d tensors", maxTensors)
		}
		seen[name] = true
		return p.member(s, h, name, at())
	})
	switch {
	case err != nil:
		return err
	case !ok && s.skipSpace() == 0 && s.at == len(text):
		return p.fail("", at(), "the header's JSON does not end")
	case !ok:
		return p.fail("", at(), "the header's JSON is broken")
	}
	if s.skipSpace(); s.at < len(text) {
		return p.fail("", at(), "something follows the header's JSON")
	}
	return nil
}

// member reads one value of the header, whose name ends at a byte.
func (p *headerParser) member(s *scanner, h *header, name string, at int64) error {
	if !s.take(':') {
		return p.fail(name, at, "the header's JSON is broken: no colon follows the name")
	}
	if name == metadataKey {
		return p.metadata(s, h, at)
	}
	e, err := p.tensor(s, name, at)
	h.entries = append(h.entries, e)
	return err
}

// metadata reads strings by their names; of several with one name, the last.
func (p *headerParser) metadata(s *scanner, h *header, at int64) error {
	h.metadata = map[string]string{}
	ok, err := s.members(func(name string) error {
		value, ok := "", s.take(':')
		if ok {
			value, ok = s.str()
		}
		if !ok {
			return p.fail("", at, "%s does not map strings to strings: %.40q is none", metadataKey, name)
		}
		if h.metadata[name] = value; len(h.metadata) > maxTensors {
			return p.fail("", at, "%s has more than %d entries", metadataKey, maxTensors)
		}
		return nil
	})
	if err == nil && !ok {
		err = p.fail("", at, "%s does not map strings to strings", metadataKey)
	}
	return err
}

// described is a tensor in the header; a field that is missing stays nil.
type described struct {
	dtype          *DType
	shape, offsets []int64
}

// tensor reads a tensor's description, which has exactly its three fields, once
// each.
func (p *headerParser) tensor(s *scanner, name string, at int64) (entry, error) {
	var d described
	ok, err := s.members(func(field string) error {
		if !s.take(':') {
			return p.fail(name, at, "the header's JSON is broken: no colon follows %.40q", field)
		}
		return p.field(s, &d, name, field, at)
	})
	switch {
	case err != nil:
		return entry{}, err
	case !ok:
		return entry{}, p.fail(name, at, "the header's JSON is broken: no tensor is described")
	case d.dtype == nil || d.shape == nil || d.offsets == nil:
		return entry{}, p.fail(name, at, "dtype, shape and two data_offsets must be given")
	}
	e := entry{name: name, dtype: *d.dtype, begin: d.offsets[0], end: d.offsets[1]}
	return e, p.size(&e, d.shape, at)
}

// field reads one field of a tensor.
func (p *headerParser) field(s *scanner, d *described, name, field string, at int64) error {
	var twice, ok bool
	switch field {
	case "dtype":
		var t string
		twice = d.dtype != nil
		t, ok = s.str()
		d.dtype = (*DType)(&t)
	case "shape":
		var more bool
		twice = d.shape != nil
		if d.shape, more, ok = s.integers(maxRank); more {
			return p.fail(name, at, "the shape has more than %d dimensions", maxRank)
		}
	case "data_offsets":
		var more bool
		twice = d.offsets != nil
		if d.offsets, more, ok = s.integers(2); ok && (more || len(d.offsets) != 2) {
			return p.fail(name, at, "dtype, shape and two data_offsets must be given")
		}
	default:
		return p.fail(name, at, "has a field %.40q, which the format does not know", field)
	}
	if twice {
		return p.fail(name, at, "has the field %q twice", field)
	}
	if !ok {
		return p.fail(name, at, "is not described as a tensor: its %s is none", field)
	}
	return nil
}

// size sets the entry's shape and compares it with its bytes.
func (p *headerParser) size(e *entry, shape []int64, at int64) error {
	width, known := bits[e.dtype]
	if !known {
		return p.fail(e.name, at, "the type %.20q is not known", string(e.dtype))
	}
	total, ok := product(shape, width)
	if !ok {
		return p.fail(e.name, at, "the shape %v is negative or too large", shape)
	}
	if e.begin < 0 || e.end < e.begin || e.end-e.begin != (total+7)/8 {
		return p.fail(e.name, at, "the data_offsets are [%d, %d], and %s of shape %v needs %d bytes", e.begin, e.end, e.dtype, shape, (total+7)/8)
	}
	e.shape = make([]int, len(shape))
	for i, n := range shape {
		e.shape[i] = int(n)
	}
	return nil
}

// product multiplies a shape and the bits of an element; false where it
// overflows or a dimension is negative.
func product(shape []int64, n int64) (int64, bool) {
	if slices.ContainsFunc(shape, func(d int64) bool { return d < 0 || d > math.MaxInt32 }) {
		return 0, false
	}
	if slices.Contains(shape, 0) {
		return 0, true
	}
	for _, d := range shape {
		if n > (math.MaxInt64-7)/d {
			return 0, false
		}
		n *= d
	}
	return n, true
}

// cover checks that the tensors, in order, are exactly the data.
func (h *header) cover(file string, size int64) error {
	p := &headerParser{file: file}
	have, next := size-h.data, int64(0)
	for i, e := range h.entries {
		switch {
		case e.begin < next:
			return p.fail(e.name, h.data+e.begin, "overlaps tensor %q, which ends at byte %d", h.entries[i-1].name, h.data+next)
		case e.begin > next:
			return p.fail(e.name, h.data+next, "%d bytes before it belong to no tensor", e.begin-next)
		case e.end > have:
			return p.fail(e.name, h.data+e.begin, "ends at byte %d, and the file has %d: it is truncated", h.data+e.end, size)
		}
		next = e.end
	}
	if next != have {
		return p.fail("", h.data+next, "%d bytes follow the last tensor", have-next)
	}
	return nil
}

// encodeHeader writes a header with its length, padded with spaces so that the
// data starts at a multiple of 8.
func encodeHeader(entries []entry, metadata map[string]string) ([]byte, error) {
	var b strings.Builder
	put := func(lead, key string, value any) error {
		k, _ := json.Marshal(key)
		v, err := json.Marshal(value)
		b.WriteString(lead)
		b.Write(k)
		b.WriteByte(':')
		b.Write(v)
		return err
	}
	lead := "{"
	if metadata != nil {
		if err := put(lead, metadataKey, metadata); err != nil {
			return nil, err
		}
		lead = ","
	}
	for _, e := range entries {
		if err := put(lead, e.name, encodeTensor(e)); err != nil {
			return nil, err
		}
		lead = ","
	}
	if lead == "{" {
		b.WriteString(lead)
	}
	b.WriteByte('}')
	for b.Len()%8 != 0 {
		b.WriteByte(' ')
	}
	out := binary.LittleEndian.AppendUint64(nil, uint64(b.Len()))
	return append(out, b.String()...), nil
}

// tensorJSON is a tensor in the header, to be written.
type tensorJSON struct {
	DType   *DType  `json:"dtype"`
	Shape   []int64 `json:"shape"`
	Offsets []int64 `json:"data_offsets"`
}

func encodeTensor(e entry) tensorJSON {
	shape := make([]int64, len(e.shape))
	for i, n := range e.shape {
		shape[i] = int64(n)
	}
	return tensorJSON{DType: &e.dtype, Shape: shape, Offsets: []int64{e.begin, e.end}}
}
