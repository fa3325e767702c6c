package kernel

import (
	"testing"

	"github.com/stretchr/testify/require"
)

// Groups of no rows, of one, of a few and of many, weights of all types, and biases
// for some of them.
func TestGroupedLinearIsLinearOfEachGroup(t *testing.T) {
	r := newRand(t, 4)
	const in, out = 190, 75
	for _, sizes := range [][]int{{1, 0, 2, 1, 1, 5}, {0, 40, 1, 130}, {0, 0}, {}, {1, 1, 1, 1, 1, 1, 1, 1, 1}} {
		offsets := []int32{2}
		var cases []linearCase
		x := randomFloats(r, 2*in, false)
		want := make([]float32, 2*out)
		for _, n := range sizes {
			c := newLinearCase(r, n, out, in, false)
			cases = append(cases, c)
			x = append(x, c.x...)
			want = append(want, obviousLinear(c)...)
			offsets = append(offsets, offsets[len(offsets)-1]+int32(n))
		}
		rows := int(offsets[len(offsets)-1])
		eachDevice(t, func(t *testing.T, dev *CPU) {
			var weights []Weight
			var biases []Buffer
			for _, c := range cases {
				weights, biases = append(weights, c.pack(t, dev)), append(biases, c.packBias(t, dev))
			}
			dst := upload(t, dev, rows, out, make([]float32, rows*out))
			dev.GroupedLinear(dst, upload(t, dev, rows, in, x), weights, biases, offsets)
			requireSameBits(t, want, download(dst), sizes)
		})
	}
}

func TestGroupedLinearPanicsOnOffsetsThatFall(t *testing.T) {
	dev := newDevice(t, Auto, 1)
	w, err := dev.Pack(hostMatrix(F32, 3, 4, make([]float32, 12)))
	require.NoError(t, err)
	b, err := dev.Alloc(DeviceMemory, F32, 100)
	require.NoError(t, err)
	require.PanicsWithValue(t, "kernel: grouped linear: rows 3 to 1 of 4", func() {
		dev.GroupedLinear(MatOf(b, 4, 3), MatOf(b, 4, 4), []Weight{w, w}, nil, []int32{0, 3, 1})
	})
	require.PanicsWithValue(t, "kernel: grouped linear: biases 1, want 2", func() {
		dev.GroupedLinear(MatOf(b, 4, 3), MatOf(b, 4, 4), []Weight{w, w}, []Buffer{b}, []int32{0, 3, 4})
	})
	require.PanicsWithValue(t, "kernel: grouped linear: elements of the bias 100, want 3", func() {
		dev.GroupedLinear(MatOf(b, 4, 3), MatOf(b, 4, 4), []Weight{w}, []Buffer{b}, []int32{0, 4})
	})
}
