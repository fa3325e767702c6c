package kernel

import (
	"testing"

	"github.com/stretchr/testify/require"
)

// Packing keeps every element, on every path, whatever straddles a panel.
func TestPackKeepsEveryElement(t *testing.T) {
	r := newRand(t, 5)
	eachDevice(t, func(t *testing.T, dev *CPU) {
		for range 40 {
			in := r.IntN(70)
			var parts []HostMatrix
			var want []float32
			for range 1 + r.IntN(3) {
				typ, out := weightTypes[r.IntN(3)], r.IntN(80)
				m := hostMatrix(typ, out, in, randomFloats(r, out*in, true))
				f := make([]float32, out*in)
				widen(f, typ, m.Data)
				parts, want = append(parts, m), append(want, f...)
			}
			w, err := dev.Pack(parts...)
			require.NoError(t, err)
			var got []float32
			for o := range w.Out() {
				for k := range in {
					got = append(got, w.(*weight).element(o, k))
				}
			}
			requireSameBits(t, want, got, parts)
		}
	})
}

func TestPackWidensOnlyWhereTypesDiffer(t *testing.T) {
	dev := newDevice(t, Auto, 1)
	m := func(t DType) HostMatrix { return hostMatrix(t, 2, 2, make([]float32, 4)) }
	for _, c := range []struct {
		parts []HostMatrix
		want  DType
	}{
		{[]HostMatrix{m(F16)}, F16},
		{[]HostMatrix{m(BF16), m(BF16)}, BF16},
		{[]HostMatrix{m(BF16), m(F16)}, F32},
		{[]HostMatrix{m(F32), m(BF16)}, F32},
	} {
		w, err := dev.Pack(c.parts...)
		require.NoError(t, err)
		require.Equal(t, c.want, w.DType())
		require.Equal(t, 2*len(c.parts), w.Out())
		require.Equal(t, int64(c.want.Bytes(2*panelWidth)), w.Size())
	}
}

func TestPackRefusesWhatDoesNotFit(t *testing.T) {
	dev := newDevice(t, Auto, 1)
	for _, c := range []struct {
		parts []HostMatrix
		want  string
	}{
		{nil, "pack: no matrix"},
		{[]HostMatrix{{DType: I32, Out: 1, In: 1, Data: make([]byte, 4)}}, "pack: part 0: a matrix of i32: want f32, f16, bf16, f8e4m3, f4e2m1 or q8"},
		{[]HostMatrix{{Out: 1, In: 1, Data: make([]byte, 4)}, {Out: 1, In: 2, Data: make([]byte, 8)}}, "pack: part 1 is [1, 2], part 0 has 1 columns"},
		{[]HostMatrix{{DType: F16, Out: 3, In: 2, Data: make([]byte, 11)}}, "pack: part 0: [3, 2] of f16 has 11 bytes, want 12"},
	} {
		_, err := dev.Pack(c.parts...)
		require.EqualError(t, err, c.want)
	}
}
