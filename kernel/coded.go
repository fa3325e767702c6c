package kernel

import (
	"fmt"
	"math"
)

// RowFormat is how the elements of a row look where it travels: in full, or
// narrowed. Each row is narrowed by itself, so that the result depends on that row
// alone.
type RowFormat uint8

const (
	// RowF32 keeps every bit.
	RowF32 RowFormat = iota
	// RowBF16 rounds each element to the nearest bfloat16, ties to even. An element
	// beyond the largest bfloat16 becomes infinite; infinities stay, a NaN stays a NaN.
	RowBF16
	// RowInt8 is a scale, F32, and an integer of -127 … 127 for each element: scale
	// is the largest magnitude m of the row divided by 127, and the integer the
	// product of the element and 127/m, rounded to nearest, ties to even. An
	// element becomes its integer times scale, at most about half a scale away.
	//
	// Where scale would be below the smallest normal number, 2⁻¹²⁶, scale and all
	// integers are 0. A row with an element that is not finite has the scale NaN,
	// and all of it becomes NaN: nothing of it looks like a result. (127 times a
	// scale that was rounded up may be infinite where m is the largest number.)
	RowInt8
)

var rowFormatNames = [...]string{RowF32: "f32", RowBF16: "bf16", RowInt8: "int8"}

// Known says whether there is such a format.
func (f RowFormat) Known() bool { return int(f) < len(rowFormatNames) }

// String returns the name that numerics and flags use.
func (f RowFormat) String() string {
	if f.Known() {
		return rowFormatNames[f]
	}
	return fmt.Sprintf("RowFormat(%d)", uint8(f))
}

// UnmarshalText is the inverse of String, for command lines and settings.
func (f *RowFormat) UnmarshalText(text []byte) error {
	for i, name := range rowFormatNames {
		if string(text) == name {
			*f = RowFormat(i)
			return nil
		}
	}
	return fmt.Errorf("row format %q: want one of %q", text, rowFormatNames)
}

// scaleBytes is the scale before the integers of RowInt8.
const scaleBytes = 4

// Bytes is the size of a row of n elements, always a multiple of 4.
func (f RowFormat) Bytes(n int) int {
	switch f {
	case RowBF16:
		return (2*n + 3) &^ 3
	case RowInt8:
		return scaleBytes + (n+3)&^3
	}
	return 4 * n
}

// CodedMat is a view of a buffer of any type as rows in a format: Rows rows of
// Cols elements; row r starts at byte Off + r·Format.Bytes(Cols). Off is a
// multiple of 4. Bytes behind a row's last element are 0.
type CodedMat struct {
	Buf    Buffer
	Off    int
	Rows   int
	Cols   int
	Format RowFormat
}

// CodedMatOf views the start of a buffer as rows × cols.
func CodedMatOf(b Buffer, f RowFormat, rows, cols int) CodedMat {
	return CodedMat{Buf: b, Rows: rows, Cols: cols, Format: f}
}

// RowRange is the view of rows lo to hi.
func (m CodedMat) RowRange(lo, hi int) CodedMat {
	m.Off += lo * m.Format.Bytes(m.Cols)
	m.Rows = hi - lo
	return m
}

// EncodeRows is dst[i] = src[srcRows[i]] in dst's format; nil rows mean 0, 1,
// 2, ….
func (c *CPU) EncodeRows(dst CodedMat, src Mat, srcRows []int32) {
	mustEqual("encode rows", "columns of src", src.Cols, dst.Cols)
	n := src.Rows
	if srcRows != nil {
		n = len(srcRows)
	}
	mustEqual("encode rows", "rows of src", n, dst.Rows)
	d, s := viewCoded(dst), view(src)
	c.eachRow(n, dst.Cols, func(i int) {
		encodeRow(c.isa, dst.Format, d.row(i), s.row(rowAt(srcRows, i)))
	})
}

// DecodeRows is dst[dstRows[i]] = src[srcRows[i]]; nil rows mean 0, 1, 2, ….
// Where both are nil, all rows of dst are written.
func (c *CPU) DecodeRows(dst Mat, dstRows []int32, src CodedMat, srcRows []int32) {
	mustEqual("decode rows", "columns of src", src.Cols, dst.Cols)
	d, s := view(dst), viewCoded(src)
	n := countRows("decode rows", d.rows, dstRows, src.Rows, srcRows)
	c.eachRow(n, d.cols, func(i int) {
		decodeRow(c.isa, src.Format, d.row(rowAt(dstRows, i)), s.row(rowAt(srcRows, i)))
	})
}

// codedRows is a CodedMat whose memory has been looked up and checked once.
type codedRows struct {
	data []byte // starts at row 0
	size int    // of a row
}

// viewCoded checks that m lies inside its buffer.
func viewCoded(m CodedMat) codedRows {
	size := m.Format.Bytes(m.Cols)
	if m.Rows == 0 {
		return codedRows{size: size}
	}
	mem := bytesOf(m.Buf)
	end := m.Off + m.Rows*size
	if !m.Format.Known() || m.Off < 0 || m.Off%4 != 0 || m.Rows < 0 || m.Cols < 0 || end > len(mem) {
		panic(fmt.Sprintf("kernel: a view of %d rows of %d columns in %v at byte %d: the buffer has %d bytes",
			m.Rows, m.Cols, m.Format, m.Off, len(mem)))
	}
	return codedRows{data: mem[m.Off:end:end], size: size}
}

// row is row r's bytes, aligned to 4.
func (m codedRows) row(r int) []byte { return m.data[r*m.size : (r+1)*m.size : (r+1)*m.size] }

// encodeRow writes src to a row of the format.
func encodeRow(isa ISA, f RowFormat, dst []byte, src []float32) {
	switch f {
	case RowF32:
		copy(castSlice[float32](dst), src)
	case RowBF16:
		to := castSlice[uint16](dst)
		clear(to[len(src):])
		narrowBF16Row(isa, to[:len(src)], src)
	case RowInt8:
		scale, inverse := int8Scale(maxBits(isa, src))
		castSlice[float32](dst)[0] = scale
		to := castSlice[int8](dst[scaleBytes:])
		clear(to[len(src):])
		if inverse == 0 {
			clear(to)
			return
		}
		quantizeRow(isa, to[:len(src)], src, inverse)
	}
}

// decodeRow widens a row of the format to dst.
func decodeRow(isa ISA, f RowFormat, dst []float32, src []byte) {
	switch f {
	case RowF32:
		copy(dst, castSlice[float32](src))
	case RowBF16:
		widenBF16Row(isa, dst, castSlice[uint16](src)[:len(dst)])
	case RowInt8:
		scale := castSlice[float32](src)[0]
		dequantizeRow(isa, dst, castSlice[int8](src[scaleBytes:])[:len(dst)], scale)
	}
}

const (
	infinityBits = 0x7f800000
	minNormal    = 0x1p-126
	int8Max      = 127
)

// int8Scale is the scale of a row, and the factor by which its elements are multiplied
// before they are rounded, 0 where all integers are to be 0. bits are the
// largest magnitude's.
func int8Scale(bits uint32) (scale, inverse float32) {
	if bits >= infinityBits {
		return float32(math.NaN()), 0
	}
	m := math.Float32frombits(bits)
	if scale = m / int8Max; scale < minNormal {
		return 0, 0
	}
	return scale, int8Max / m
}

// maxBitsPortable is the largest of the elements' bits without their signs: the
// bits of the largest magnitude, or of a NaN or an infinity where there is one.
func maxBitsPortable(x []float32) (bits uint32) {
	for _, v := range x {
		bits = max(bits, math.Float32bits(v)&^(1<<31))
	}
	return bits
}

// quantizeRowPortable rounds x·inverse, of magnitudes up to 127, to integers.
func quantizeRowPortable(dst []int8, x []float32, inverse float32) {
	// Of this magnitude floats are integers: the sum is rounded to one.
	const magic = 0x1.8p+23
	for i, v := range x {
		dst[i] = int8(float32(float32(v*inverse)+magic) - magic)
	}
}

func dequantizeRowPortable(dst []float32, x []int8, scale float32) {
	for i, q := range x {
		dst[i] = float32(float32(q) * scale)
	}
}

func narrowBF16RowPortable(dst []uint16, x []float32) {
	for i, v := range x {
		dst[i] = narrowBF16(v)
	}
}

func widenBF16RowPortable(dst []float32, x []uint16) {
	for i, h := range x {
		dst[i] = widenBF16(h)
	}
}
