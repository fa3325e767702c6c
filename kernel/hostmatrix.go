package kernel

import (
	"encoding/binary"
	"fmt"
	"math"
)

// hostRow is one output's elements as the checkpoint has them.
type hostRow struct {
	dtype DType
	data  []byte
	// scales, of a type, multiply each run of scaleCols elements; nil where the row has
	// none.
	scales    []byte
	scaleType DType
	scaleCols int
}

// isMatrix says whether a HostMatrix may have elements of the type.
func (d DType) isMatrix() bool { return d.Known() && d != I32 && d != E8M0 }

// check refuses a type that is not packed, and data of another size than the
// dimensions say.
func (m *HostMatrix) check() error {
	if !m.DType.isMatrix() {
		return fmt.Errorf("a matrix of %v: want f32, f16, bf16, f8e4m3, f4e2m1 or q8", m.DType)
	}
	block, _ := m.DType.Block()
	if m.Out < 0 || m.In < 0 || m.In%block != 0 {
		return fmt.Errorf("[%d, %d] of %v: want rows of a multiple of %d elements", m.Out, m.In, m.DType, block)
	}
	if want := m.DType.Bytes(m.Out * m.In); len(m.Data) != want {
		return fmt.Errorf("[%d, %d] of %v has %d bytes, want %d", m.Out, m.In, m.DType, len(m.Data), want)
	}
	if m.Scales != nil {
		return m.Scales.check(m.Out, m.In)
	}
	return nil
}

// check refuses scales that do not fit a matrix [out, in].
func (s *Scales) check(out, in int) error {
	if s.DType != F32 && s.DType != E8M0 {
		return fmt.Errorf("scales of %v: want f32 or e8m0", s.DType)
	}
	if s.Rows < 1 || s.Cols < 1 {
		return fmt.Errorf("scales of tiles of %d rows and %d columns", s.Rows, s.Cols)
	}
	tiles := ceilDiv(out, s.Rows) * ceilDiv(in, s.Cols)
	if want := s.DType.Bytes(tiles); len(s.Data) != want {
		return fmt.Errorf("scales of [%d, %d] in tiles of %d × %d have %d bytes, want %d", out, in, s.Rows, s.Cols, len(s.Data), want)
	}
	return nil
}

func ceilDiv(a, b int) int { return (a + b - 1) / b }

// packedType is the type of the packed matrix: that of the elements where products
// read them as they are, BF16 where its 8 bits of significand and its range hold
// every value, else F32.
func (m *HostMatrix) packedType() DType {
	switch {
	case m.DType <= BF16 && m.Scales == nil:
		return m.DType
	case m.DType == F4E2M1 && (m.Scales == nil || m.Scales.DType == E8M0), m.DType == F8E4M3 && m.Scales == nil:
		return BF16
	}
	return F32
}

// row is output o's elements.
func (m *HostMatrix) row(o int) hostRow {
	size := m.DType.Bytes(m.In)
	r := hostRow{dtype: m.DType, data: m.Data[o*size : (o+1)*size]}
	if s := m.Scales; s != nil {
		size := s.DType.Bytes(ceilDiv(m.In, s.Cols))
		at := o / s.Rows * size
		r.scales, r.scaleType, r.scaleCols = s.Data[at:at+size], s.DType, s.Cols
	}
	return r
}

// widen writes the row's elements, multiplied by their scales, to dst. A product is
// rounded once.
func (r *hostRow) widen(dst []float32) {
	widen(dst, r.dtype, r.data)
	if r.scales == nil {
		return
	}
	for i := range ceilDiv(len(dst), r.scaleCols) {
		lo := i * r.scaleCols
		tile, scale := dst[lo:min(lo+r.scaleCols, len(dst))], r.scale(i)
		for j := range tile {
			tile[j] = float32(tile[j] * scale)
		}
	}
}

// scale is the row's i-th scale.
func (r *hostRow) scale(i int) float32 {
	if r.scaleType == E8M0 {
		return widenE8M0(r.scales[i])
	}
	return math.Float32frombits(binary.LittleEndian.Uint32(r.scales[4*i:]))
}

// upperHalves narrows values whose lower 16 bits are 0 to BF16.
func upperHalves(f []float32) []byte {
	b := make([]byte, 0, 2*len(f))
	for _, v := range f {
		b = binary.LittleEndian.AppendUint16(b, uint16(math.Float32bits(v)>>16))
	}
	return b
}

// widenE8M0 is 2^(b−127).
func widenE8M0(b byte) float32 {
	switch b {
	case 0: // a denormal float32
		return math.Float32frombits(1 << 22)
	case 255:
		return float32(math.NaN())
	}
	return math.Float32frombits(uint32(b) << 23)
}

// widenE4M3 is the float32 that 8 bits stand for.
func widenE4M3(b byte) float32 {
	sign, exponent, fraction := uint32(b&0x80)<<24, uint32(b>>3&0xf), uint32(b&7)
	switch {
	case b&0x7f == 0x7f:
		return math.Float32frombits(sign | 0x7fc00000)
	case exponent == 0: // zero or denormal: fraction · 2⁻⁹
		return math.Float32frombits(math.Float32bits(float32(float32(fraction)*(1.0/512))) | sign)
	}
	return math.Float32frombits(sign | (exponent+127-7)<<23 | fraction<<20)
}

// e2m1 are the magnitudes of F4E2M1.
var e2m1 = [8]float32{0, 0.5, 1, 1.5, 2, 3, 4, 6}

// widenE2M1 is the float32 that the lower 4 bits stand for.
func widenE2M1(b byte) float32 {
	return math.Float32frombits(math.Float32bits(e2m1[b&7]) | uint32(b&8)<<28)
}

// widenQ8 converts whole blocks. A product of 11 and 8 bits is exact.
func widenQ8(dst []float32, src []byte) {
	elements, bytes := Q8.Block()
	for ; len(dst) > 0; dst, src = dst[elements:], src[bytes:] {
		scale := widenF16(binary.LittleEndian.Uint16(src))
		for i, q := range src[2:bytes] {
			dst[i] = float32(float32(int8(q)) * scale)
		}
	}
}
