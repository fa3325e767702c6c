package kernel

import (
	"math/rand/v2"
	"testing"

	"github.com/stretchr/testify/require"
)

func TestEmbedIsARowOfTheTable(t *testing.T) {
	r := newRand(t, 6)
	for _, typ := range weightTypes {
		const out, in = 75, 45
		table := make([]float32, out*in)
		m := hostMatrix(typ, out, in, randomFloats(r, out*in, true))
		widen(table, typ, m.Data)
		ids := []int32{74, 0, 31, 32, 31, 17, 64}
		var want []float32
		for _, id := range ids {
			want = append(want, table[int(id)*in:(int(id)+1)*in]...)
		}
		eachDevice(t, func(t *testing.T, dev *CPU) {
			w, err := dev.Pack(m)
			require.NoError(t, err)
			dst := upload(t, dev, len(ids), in, make([]float32, len(ids)*in))
			dev.Embed(dst, w, ids)
			requireSameBits(t, want, download(dst), typ)
			require.PanicsWithValue(t, "kernel: embed: id 75 of a table of 75", func() {
				dev.Embed(dst.RowRange(0, 1), w, []int32{75})
			})
		})
	}
}

// rowCase is three matrices of one shape, wide enough now and then to be shared
// between threads.
type rowCase struct {
	rows, cols int
	a, b, c    []float32
}

func newRowCase(r *rand.Rand) rowCase {
	c := rowCase{rows: 1 + r.IntN(40), cols: 1 + r.IntN(40)}
	if r.IntN(4) == 0 {
		c.cols += 2000
	}
	n := c.rows * c.cols
	c.a, c.b, c.c = randomFloats(r, n, true), randomFloats(r, n, true), randomFloats(r, n, true)
	return c
}

// eachRowCase runs a test for shapes on each device.
func eachRowCase(t *testing.T, test func(t *testing.T, dev *CPU, c rowCase, r *rand.Rand)) {
	eachDevice(t, func(t *testing.T, dev *CPU) {
		r := newRand(t, 7)
		for range 20 {
			test(t, dev, newRowCase(r), r)
		}
	})
}

func TestAdd(t *testing.T) {
	eachRowCase(t, func(t *testing.T, dev *CPU, c rowCase, r *rand.Rand) {
		want := make([]float32, len(c.a))
		for i := range want {
			want[i] = c.a[i] + c.b[i]
		}
		a, b := upload(t, dev, c.rows, c.cols, c.a), upload(t, dev, c.rows, c.cols, c.b)
		dst := upload(t, dev, c.rows, c.cols, c.c)
		dev.Add(dst, a, b)
		requireSameBits(t, want, download(dst))
		dev.Add(a, a, b)
		requireSameBits(t, want, download(a), "in place")
	})
}

func TestScaleRows(t *testing.T) {
	eachRowCase(t, func(t *testing.T, dev *CPU, c rowCase, r *rand.Rand) {
		want := make([]float32, len(c.a))
		for i := range want {
			want[i] = c.a[i] * c.b[i/c.cols*c.cols]
		}
		x := upload(t, dev, c.rows, c.cols, c.a)
		dev.ScaleRows(x, upload(t, dev, c.rows, c.cols, c.b).ColRange(0, 1))
		requireSameBits(t, want, download(x))
	})
}

func TestClampKeepsNaN(t *testing.T) {
	eachRowCase(t, func(t *testing.T, dev *CPU, c rowCase, r *rand.Rand) {
		const limit = 0.75
		want := append([]float32(nil), c.a...)
		for i, v := range want {
			if v == v {
				want[i] = max(-limit, min(v, limit))
			}
		}
		x := upload(t, dev, c.rows, c.cols, c.a)
		dev.Clamp(x, limit)
		requireSameBits(t, want, download(x))
	})
}

func TestCombineAddsInTheOrderOfTheList(t *testing.T) {
	eachRowCase(t, func(t *testing.T, dev *CPU, c rowCase, r *rand.Rand) {
		rows, offsets := randomLists(r, c.rows)
		sum := func(start []float32) []float32 {
			want := make([]float32, len(c.a))
			for i := range want {
				list := rows[offsets[i/c.cols]:offsets[i/c.cols+1]]
				if start == nil && len(list) > 0 {
					want[i], list = c.b[int(list[0])*c.cols+i%c.cols], list[1:]
				} else if start != nil {
					want[i] = start[i]
				}
				for _, from := range list {
					want[i] += c.b[int(from)*c.cols+i%c.cols]
				}
			}
			return want
		}
		residual, parts := upload(t, dev, c.rows, c.cols, c.a), upload(t, dev, c.rows, c.cols, c.b)
		dst := upload(t, dev, c.rows, c.cols, c.c)
		dev.Combine(dst, Mat{}, parts, rows, offsets)
		requireSameBits(t, sum(nil), download(dst), "without a residual")
		dev.Combine(dst, residual, parts, rows, offsets)
		requireSameBits(t, sum(c.a), download(dst))
		dev.Combine(residual, residual, parts, rows, offsets)
		requireSameBits(t, sum(c.a), download(residual), "in place")
	})
}

// randomLists are up to three rows to add to each of so many.
func randomLists(r *rand.Rand, rows int) (lists, offsets []int32) {
	offsets = []int32{0}
	for range rows {
		for range r.IntN(4) {
			lists = append(lists, int32(r.IntN(rows)))
		}
		offsets = append(offsets, int32(len(lists)))
	}
	return lists, offsets
}

func TestCopyRows(t *testing.T) {
	eachRowCase(t, func(t *testing.T, dev *CPU, c rowCase, r *rand.Rand) {
		n := 1 + r.IntN(c.rows)
		from := make([]int32, n)
		for i := range from {
			from[i] = int32(r.IntN(c.rows))
		}
		to := make([]int32, n)
		for i, p := range r.Perm(c.rows)[:n] {
			to[i] = int32(p)
		}
		for _, s := range []struct{ dst, src []int32 }{{nil, nil}, {nil, from}, {to, nil}, {to, from}} {
			want := append([]float32(nil), c.a...)
			count := n
			if s.dst == nil && s.src == nil {
				count = c.rows
			}
			for i := range count {
				d, f := rowAt(s.dst, i)*c.cols, rowAt(s.src, i)*c.cols
				copy(want[d:d+c.cols], c.b[f:])
			}
			dst := upload(t, dev, c.rows, c.cols, c.a)
			dev.CopyRows(dst, s.dst, upload(t, dev, c.rows, c.cols, c.b), s.src)
			requireSameBits(t, want, download(dst), s)
		}
	})
}

func TestRowOperationsPanicOnShapesThatDisagree(t *testing.T) {
	dev := newDevice(t, Auto, 1)
	b, err := dev.Alloc(DeviceMemory, F32, 100)
	require.NoError(t, err)
	m := func(rows, cols int) Mat { return MatOf(b, rows, cols) }
	require.PanicsWithValue(t, "kernel: add: columns of b 4, want 3", func() { dev.Add(m(2, 3), m(2, 3), m(2, 4)) })
	require.PanicsWithValue(t, "kernel: scale rows: columns of scale 2, want 1", func() { dev.ScaleRows(m(2, 3), m(2, 2)) })
	require.PanicsWithValue(t, "kernel: copy rows: source rows 1, want 2", func() {
		dev.CopyRows(m(2, 3), []int32{0, 1}, m(2, 3), []int32{0})
	})
	require.PanicsWithValue(t, "kernel: combine: rows to add 4, want 3", func() {
		dev.Combine(m(2, 3), m(2, 3), m(2, 3), []int32{0, 1, 0}, []int32{0, 2, 4})
	})
}
