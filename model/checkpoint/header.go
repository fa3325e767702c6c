package checkpoint

import (
	"bytes"
	"cmp"
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"math"
	"slices"
	"sort"
	"strconv"
	"strings"

	"github.com/tandem-moe/tandem/internal/strictjson"
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
		return nil, p.fail("", lengthBytes, "the header's length is %d, and %d bytes follow it: the file is truncated",
			n, size-lengthBytes)
	}
	return file[lengthBytes : lengthBytes+n], nil
}

// limits bound a header's JSON, and an index's. A header nests to two levels, and
// has one name that is no tensor.
var limits = strictjson.Limits{Depth: 16, Members: maxTensors + 1}

// object reads {"name": tensor, …}.
func (p *headerParser) object(text []byte, h *header) error {
	object, err := strictjson.Object(text, limits)
	if err != nil {
		return refused(p.file, lengthBytes, "the header", err)
	}
	base := int64(lengthBytes + bytes.IndexByte(text, '{'))
	for m := range strictjson.Members(object) {
		if err := p.member(h, m, base+int64(m.At)); err != nil {
			return err
		}
	}
	return nil
}

// refused says what is wrong with a file's JSON, which begins at a byte of it.
func refused(file string, from int64, whole string, err error) error {
	var e *strictjson.Error
	if !errors.As(err, &e) {
		return err
	}
	f := &FormatError{File: file, Offset: from + max(e.At, 0), Reason: cmp.Or(e.Path, whole) + " " + e.Reason}
	if e.Err != nil {
		f.Reason += ": " + e.Err.Error()
	}
	return f
}

// member reads one field of the header, whose value begins at a byte.
func (p *headerParser) member(h *header, m strictjson.Member, at int64) error {
	switch {
	case len(m.Name) > maxName:
		return p.fail("", at, "a name has %d bytes, the limit is %d", len(m.Name), maxName)
	case m.Name == metadataKey:
		return p.metadata(h, m.Value, at)
	case len(h.entries) == maxTensors:
		return p.fail("", at, "the header has more than %d tensors", maxTensors)
	}
	e, err := p.tensor(m.Name, m.Value, at)
	h.entries = append(h.entries, e)
	return err
}

// metadata reads strings by their names.
func (p *headerParser) metadata(h *header, raw []byte, at int64) error {
	if raw[0] != '{' {
		return p.fail("", at, "%s does not map strings to strings", metadataKey)
	}
	h.metadata = map[string]string{}
	for m := range strictjson.Members(raw) {
		if m.Value[0] != '"' {
			return p.fail("", at, "%s does not map strings to strings: %.40q is none", metadataKey, m.Name)
		}
		h.metadata[m.Name] = strictjson.Text(m.Value)
	}
	return nil
}

// described is a tensor in the header; a field that is missing stays nil.
type described struct {
	dtype          *DType
	shape, offsets []int64
}

// tensor reads a tensor's description, which has exactly its three fields.
func (p *headerParser) tensor(name string, raw []byte, at int64) (entry, error) {
	if raw[0] != '{' {
		return entry{}, p.fail(name, at, "is %s, and no object that describes a tensor", strictjson.Kind(raw))
	}
	var d described
	for m := range strictjson.Members(raw) {
		if err := p.field(&d, name, m, at); err != nil {
			return entry{}, err
		}
	}
	if d.dtype == nil || d.shape == nil || len(d.offsets) != 2 {
		return entry{}, p.fail(name, at, "dtype, shape and two data_offsets must be given")
	}
	e := entry{name: name, dtype: *d.dtype, begin: d.offsets[0], end: d.offsets[1]}
	return e, p.size(&e, d.shape, at)
}

// field reads one field of a tensor.
func (p *headerParser) field(d *described, name string, m strictjson.Member, at int64) error {
	var ok bool
	switch m.Name {
	case "dtype":
		if ok = m.Value[0] == '"'; ok {
			t := DType(strictjson.Text(m.Value))
			d.dtype = &t
		}
	case "shape":
		d.shape, ok = integers(m.Value)
		if len(d.shape) > maxRank {
			return p.fail(name, at, "the shape has more than %d dimensions", maxRank)
		}
	case "data_offsets":
		d.offsets, ok = integers(m.Value)
	default:
		return p.fail(name, at, "has a field %.40q, which the format does not know", m.Name)
	}
	if !ok {
		return p.fail(name, at, "is not described as a tensor: its %s is none", m.Name)
	}
	return nil
}

// integers reads a list of whole numbers, and of a list above maxRank the first
// that are.
func integers(raw []byte) (list []int64, ok bool) {
	if raw[0] != '[' {
		return nil, false
	}
	list = make([]int64, 0, 4)
	for i, e := range strictjson.Elements(raw) {
		n, err := strconv.ParseInt(string(e.Value), 10, 64)
		if err != nil {
			return nil, false
		}
		if list = append(list, n); i == maxRank {
			break
		}
	}
	return list, true
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
		return p.fail(e.name, at, "the data_offsets are [%d, %d], and %s of shape %v needs %d bytes", e.begin, e.end,
			e.dtype, shape, (total+7)/8)
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
			return p.fail(e.name, h.data+e.begin, "overlaps tensor %q, which ends at byte %d", h.entries[i-1].name,
				h.data+next)
		case e.begin > next:
			return p.fail(e.name, h.data+next, "%d bytes before it belong to no tensor", e.begin-next)
		case e.end > have:
			return p.fail(e.name, h.data+e.begin, "ends at byte %d, and the file has %d: it is truncated", h.data+e.end,
				size)
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
