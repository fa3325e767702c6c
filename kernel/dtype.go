package kernel

import "fmt"

// DType is the type of a buffer's or a matrix's elements. A block format stores
// several elements together, so that one element alone has no size: sizes are
// asked for by a number of elements, see [DType.Bytes].
type DType uint8

// Element types. Activations are F32, indices are I32. Packed matrices are F32, F16
// or BF16, and products widen them exactly.
const (
	F32 DType = iota
	F16
	BF16
	I32
	// F8E4M3 has 4 bits of exponent and 3 of fraction, no infinities, and one NaN of
	// each sign (OCP FP8, "E4M3FN").
	F8E4M3
	// F4E2M1 is 0, 0.5, 1, 1.5, 2, 3, 4 or 6 with a sign: two elements in a byte, the
	// first in the lower half (OCP MX, FP4).
	F4E2M1
	// E8M0 is a power of two, 2^(b−127); 255 is NaN. It is a type of scales (OCP MX).
	E8M0
	// Q8 is 32 integers of 8 bits behind an F16 that multiplies them (GGUF's Q8_0).
	Q8
)

// format is how a type lies in memory: blocks of some elements in some bytes.
type format struct {
	name            string
	elements, bytes int
}

var formats = [...]format{
	F32:  {"f32", 1, 4},
	F16:  {"f16", 1, 2},
	BF16: {"bf16", 1, 2},
	I32:  {"i32", 1, 4},

	F8E4M3: {"f8e4m3", 1, 1},
	F4E2M1: {"f4e2m1", 2, 1},
	E8M0:   {"e8m0", 1, 1},
	Q8:     {"q8", 32, 34},
}

// Known says whether there is such a type.
func (d DType) Known() bool { return int(d) < len(formats) }

// String returns the name that numerics and error messages use.
func (d DType) String() string {
	if d.Known() {
		return formats[d].name
	}
	return fmt.Sprintf("DType(%d)", uint8(d))
}

// Block returns the elements of a block and the bytes that they take. A row of a
// matrix is a whole number of blocks.
func (d DType) Block() (elements, bytes int) {
	if !d.Known() {
		panic(fmt.Sprintf("kernel: the size of a %v, which is no element type", d))
	}
	return formats[d].elements, formats[d].bytes
}

// Bytes returns the size of n elements, which are a whole number of blocks.
func (d DType) Bytes(n int) int {
	elements, bytes := d.Block()
	if n%elements != 0 {
		panic(fmt.Sprintf("kernel: %d elements of %v are no whole number of blocks of %d", n, d, elements))
	}
	return n / elements * bytes
}

// Elements returns how many elements lie in so many bytes; ok is false where the
// type is not known or the bytes are no whole number of blocks.
func (d DType) Elements(bytes int) (n int, ok bool) {
	if !d.Known() || bytes%formats[d].bytes != 0 {
		return 0, false
	}
	return bytes / formats[d].bytes * formats[d].elements, true
}
