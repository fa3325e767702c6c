package kernel

import (
	"fmt"
	"unsafe"
)

// hostBuffer is the CPU device's Buffer.
type hostBuffer struct {
	dtype DType
	n     int
	mem   memory
}

func (b *hostBuffer) DType() DType  { return b.dtype }
func (b *hostBuffer) Len() int      { return b.n }
func (b *hostBuffer) Bytes() []byte { return b.mem.bytes }

// bytesOf returns the memory of a buffer that the host can address: the CPU's own,
// or host-visible memory of another device.
func bytesOf(b Buffer) []byte {
	if h, ok := b.(*hostBuffer); ok {
		return h.mem.bytes
	}
	mem := b.Bytes()
	if mem == nil && b.Len() > 0 {
		panic(fmt.Sprintf("kernel: a %T is memory of another device, which the CPU cannot address", b))
	}
	return mem
}

// f32s is an F32 buffer's elements.
func f32s(b Buffer) []float32 { return elements[float32](b, F32) }

// i32s is an I32 buffer's elements.
func i32s(b Buffer) []int32 { return elements[int32](b, I32) }

func elements[T float32 | int32](b Buffer, want DType) []T {
	h, ok := b.(*hostBuffer)
	if ok && h.dtype == want {
		return castSlice[T](h.mem.bytes)
	}
	if got := b.DType(); got != want {
		panic(fmt.Sprintf("kernel: a buffer of %v, want %v", got, want))
	}
	return castSlice[T](bytesOf(b))
}

// castSlice views bytes as elements of up to 4 bytes; the bytes must be aligned.
func castSlice[T int8 | uint16 | float32 | int32 | uint32](b []byte) []T {
	var t T
	return unsafe.Slice((*T)(unsafe.Pointer(unsafe.SliceData(b))), len(b)/int(unsafe.Sizeof(t)))
}

// matrix is a Mat whose memory has been looked up and checked once.
type matrix struct {
	data   []float32 // starts at row 0, column 0
	rows   int
	cols   int
	stride int
}

// view checks that m lies inside its buffer and returns it as a matrix.
func view(m Mat) matrix {
	if m.Rows == 0 || m.Cols == 0 {
		return matrix{rows: m.Rows, cols: m.Cols, stride: m.Stride}
	}
	data := f32s(m.Buf)
	end := m.Off + (m.Rows-1)*m.Stride + m.Cols
	if m.Off < 0 || m.Rows < 0 || m.Cols < 0 || (m.Rows > 1 && m.Stride < m.Cols) || end > len(data) {
		panic(fmt.Sprintf("kernel: a view of %d rows of %d columns, stride %d, at element %d: the buffer has %d elements",
			m.Rows, m.Cols, m.Stride, m.Off, len(data)))
	}
	return matrix{data: data[m.Off:end:end], rows: m.Rows, cols: m.Cols, stride: m.Stride}
}

// row is row r's columns.
func (m matrix) row(r int) []float32 {
	if m.cols == 0 {
		return nil
	}
	at := r * m.stride
	return m.data[at : at+m.cols : at+m.cols]
}

// rowRange is the matrix of rows lo to hi.
func (m matrix) rowRange(lo, hi int) matrix {
	m.rows = hi - lo
	if m.cols > 0 && m.rows > 0 {
		m.data = m.data[lo*m.stride:]
	}
	return m
}

// mustEqual panics where two sizes that have to agree do not.
func mustEqual(op, what string, got, want int) {
	if got != want {
		panic(fmt.Sprintf("kernel: %s: %s %d, want %d", op, what, got, want))
	}
}
