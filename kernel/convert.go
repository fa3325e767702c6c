package kernel

import (
	"encoding/binary"
	"math"
)

// widenBF16 is the float32 that a bfloat16 stands for.
func widenBF16(h uint16) float32 { return math.Float32frombits(uint32(h) << 16) }

// narrowBF16 is the bfloat16 next to a float32, of two as near the even one.
func narrowBF16(v float32) uint16 {
	bits := math.Float32bits(v)
	if v != v {
		return uint16(bits>>16) | 1<<6 // the bits that made it a NaN may all be cut off: set one
	}
	return uint16((bits + 0x7fff + bits>>16&1) >> 16)
}

// widenF16 is the float32 that an IEEE half stands for, exactly; a signalling
// NaN becomes quiet, as the processor's conversion makes it.
func widenF16(h uint16) float32 {
	sign := uint32(h&0x8000) << 16
	exponent := uint32(h>>10) & 0x1f
	fraction := uint32(h & 0x3ff)
	switch exponent {
	case 0: // zero or denormal: fraction · 2⁻²⁴
		v := float32(float32(fraction) * (1.0 / (1 << 24)))
		return math.Float32frombits(math.Float32bits(v) | sign)
	case 0x1f:
		bits := sign | 0xff<<23 | fraction<<13
		if fraction != 0 {
			bits |= 1 << 22
		}
		return math.Float32frombits(bits)
	}
	return math.Float32frombits(sign | (exponent+127-15)<<23 | fraction<<13)
}

// widen converts little-endian elements, of any alignment, to dst.
func widen(dst []float32, t DType, src []byte) {
	switch t {
	case F32:
		for i := range dst {
			dst[i] = math.Float32frombits(binary.LittleEndian.Uint32(src[4*i:]))
		}
	case BF16:
		for i := range dst {
			dst[i] = widenBF16(binary.LittleEndian.Uint16(src[2*i:]))
		}
	case F16:
		for i := range dst {
			dst[i] = widenF16(binary.LittleEndian.Uint16(src[2*i:]))
		}
	case F8E4M3:
		for i := range dst {
			dst[i] = widenE4M3(src[i])
		}
	case F4E2M1:
		for i := range dst {
			dst[i] = widenE2M1(src[i/2] >> (i % 2 * 4))
		}
	case Q8:
		widenQ8(dst, src)
	}
}
