package kerneltest

import (
	"context"
	"encoding/binary"
	"math"
	"math/rand/v2"
	"slices"
	"testing"

	"github.com/stretchr/testify/require"
	"github.com/tandem-moe/tandem/kernel"
)

// Conform checks, for each primitive and over random shapes, that a device gives
// the bits that a reference gives. A NaN equals any other. Forms for which the device
// lacks the capability, and types of matrices that it does not take, are left out;
// Conform then checks that the device refuses the forms, as kernel.Capabilities says. The
// reference has all capabilities.
func Conform(t *testing.T, dev, reference kernel.Device) {
	ConformExpert(t, dev, reference)
	conform(t, dev, reference, wholePrimitives, wholeForms)
}

// ConformExpert is Conform for a device that computes experts and may have no other
// operations.
func ConformExpert(t *testing.T, dev, reference kernel.ExpertDevice) {
	conform(t, dev, reference, expertPrimitives, expertForms)
}

func conform[D kernel.ExpertDevice](t *testing.T, dev, reference D, primitives []primitive[D], forms []form[D]) {
	props := dev.Properties()
	require.NoError(t, reference.Properties().Require(kernel.AllCapabilities))
	for _, p := range primitives {
		if props.Require(p.needs) != nil {
			continue
		}
		t.Run(p.name, func(t *testing.T) {
			for seed := range uint64(p.times) {
				want := p.run(newTrial(t, reference, props, seed))
				got := p.run(newTrial(t, dev, props, seed))
				requireSameBits(t, seed, want, got)
			}
		})
	}
	for _, f := range forms {
		if props.Require(f.needs) != nil {
			t.Run("without "+f.needs.String(), func(t *testing.T) { f.refused(newTrial(t, dev, props, 0)) })
		}
	}
}

func requireSameBits(t *testing.T, seed uint64, want, got []float32) {
	t.Helper()
	require.Len(t, got, len(want), "seed %d", seed)
	for i, w := range want {
		if w != w && got[i] != got[i] {
			continue
		}
		require.Equal(t, math.Float32bits(w), math.Float32bits(got[i]), "seed %d, element %d: want %g, got %g", seed, i, w, got[i])
	}
}

// trial is where a primitive is tried: a device, what the device under test can do, which
// may be another, and a source of operands.
type trial[D kernel.ExpertDevice] struct {
	t     *testing.T
	dev   D
	props kernel.Properties
	rand  *rand.Rand
}

func newTrial[D kernel.ExpertDevice](t *testing.T, dev D, props kernel.Properties, seed uint64) *trial[D] {
	return &trial[D]{t, dev, props, rand.New(rand.NewPCG(seed, 1))}
}

// sometimes is true in half of the cases, if the device under test has the capability;
// else it is false.
func (b *trial[D]) sometimes(c kernel.Capabilities) bool {
	return b.rand.IntN(2) == 0 && b.props.Require(c) == nil
}

// floats are values of magnitudes around 1.
func (b *trial[D]) floats(n int) []float32 {
	f := make([]float32, n)
	for i := range f {
		f[i] = float32(b.rand.Int32N(1<<24)-1<<23) / (1 << 22) / float32(int(1)<<b.rand.IntN(4))
	}
	return f
}

func littleEndian[T float32 | int32](values []T) (data []byte) {
	for _, v := range values {
		data, _ = binary.Append(data, binary.LittleEndian, v)
	}
	return data
}

// buffer is memory of a random kind.
func (b *trial[D]) buffer(t kernel.DType, n int) kernel.Buffer {
	return b.alloc(kernel.MemoryKind(b.rand.IntN(2)), t, n)
}

func (b *trial[D]) alloc(kind kernel.MemoryKind, t kernel.DType, n int) kernel.Buffer {
	buf, err := b.dev.Alloc(kind, t, n)
	require.NoError(b.t, err)
	b.t.Cleanup(func() { b.dev.Free(buf) })
	return buf
}

// mat is a matrix of random elements, with room between its rows, in memory of a
// random kind. The host fills host-visible memory by itself.
func (b *trial[D]) mat(rows, cols int) kernel.Mat {
	stride := cols + b.rand.IntN(4)
	f := b.floats(rows * stride)
	kind := kernel.MemoryKind(b.rand.IntN(2))
	m := kernel.Mat{Buf: b.alloc(kind, kernel.F32, len(f)), Rows: rows, Cols: cols, Stride: stride}
	if kind == kernel.HostVisible {
		copy(m.Buf.Bytes(), littleEndian(f))
	} else {
		b.dev.Load(m.Buf, 0, littleEndian(f))
	}
	return m
}

// coded is room for rows in a random format.
func (b *trial[D]) coded(rows, cols int) kernel.CodedMat {
	f := kernel.RowFormat(b.rand.IntN(3))
	m := kernel.CodedMat{Off: 4 * b.rand.IntN(3), Rows: rows, Cols: cols, Format: f}
	m.Buf = b.buffer(kernel.I32, (m.Off+rows*f.Bytes(cols))/4)
	return m
}

func (b *trial[D]) vector(n int) kernel.Buffer {
	v, err := b.dev.Vector(kernel.F32, littleEndian(b.floats(n)))
	require.NoError(b.t, err)
	return v
}

// matrixType is one of the plain types of matrices that the device under test takes.
func (b *trial[D]) matrixType() kernel.DType {
	types := slices.DeleteFunc([]kernel.DType{kernel.F32, kernel.F16, kernel.BF16}, func(t kernel.DType) bool {
		return !slices.Contains(b.props.Matrices, t)
	})
	require.NotEmpty(b.t, types, "types of matrices")
	return types[b.rand.IntN(len(types))]
}

// weight is a random matrix of a random type.
func (b *trial[D]) weight(out, in int) kernel.Weight {
	m := kernel.HostMatrix{DType: b.matrixType(), Out: out, In: in}
	for _, v := range b.floats(out * in) {
		switch bits := math.Float32bits(v); m.DType {
		case kernel.F32:
			m.Data = binary.LittleEndian.AppendUint32(m.Data, bits)
		case kernel.BF16:
			m.Data = binary.LittleEndian.AppendUint16(m.Data, uint16(bits>>16))
		case kernel.F16: // sign, a middling exponent, and bits of the fraction
			m.Data = binary.LittleEndian.AppendUint16(m.Data, uint16(bits>>16&0x8000|0x3400|bits>>8&0x7ff))
		}
	}
	w, err := b.dev.Pack(m)
	require.NoError(b.t, err)
	return w
}

// indices are n indices below limit.
func (b *trial[D]) indices(n, limit int) []int32 {
	is := make([]int32, n)
	for i := range is {
		is[i] = int32(b.rand.IntN(limit))
	}
	return is
}

// wait makes results readable.
func (b *trial[D]) wait() {
	require.NoError(b.t, b.dev.Record().Wait(context.Background()))
}

// fetch reads a buffer and waits.
func (b *trial[D]) fetch(buf kernel.Buffer) []byte {
	host := make([]byte, buf.DType().Bytes(buf.Len()))
	b.dev.Read(host, buf, 0)
	b.wait()
	return host
}

// read returns a buffer's elements, indices as floats too.
func (b *trial[D]) read(buf kernel.Buffer) []float32 {
	host, f := b.fetch(buf), make([]float32, buf.Len())
	for i := range f {
		word := binary.LittleEndian.Uint32(host[4*i:])
		f[i] = math.Float32frombits(word)
		if buf.DType() == kernel.I32 {
			f[i] = float32(int32(word))
		}
	}
	return f
}

// readBytes returns a buffer's bytes as numbers.
func (b *trial[D]) readBytes(buf kernel.Buffer) (f []float32) {
	for _, v := range b.fetch(buf) {
		f = append(f, float32(v))
	}
	return f
}
