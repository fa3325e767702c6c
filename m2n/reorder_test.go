package m2n

import (
	"math/rand/v2"
	"slices"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/tandem-moe/tandem/m2n/internal/wire"
)

// TestReorderBuffer: in whatever order messages come, within the window, they are
// delivered by number. A message that the peer cannot have sent now is refused.
func TestReorderBuffer(t *testing.T) {
	r := rand.New(rand.NewPCG(3, 4))
	for range 200 {
		s := reorderBuffer{window: 1 + r.Uint64N(6)}
		var got []uint64
		take := func(n uint64) error {
			return s.accept(arrival{f: wire.Frame{Number: n}}, func(a arrival) { got = append(got, a.f.Number) })
		}
		var want []uint64
		for len(want) < 40 {
			first := uint64(len(want)) + 1
			batch := make([]uint64, 1+r.Uint64N(s.window))
			for i := range batch {
				batch[i] = first + uint64(i)
			}
			want = append(want, batch...)
			r.Shuffle(len(batch), func(i, j int) { batch[i], batch[j] = batch[j], batch[i] })
			for i, n := range batch {
				require.NoError(t, take(n))
				require.ErrorIs(t, take(n), ErrBadFrame, "twice")
				require.True(t, slices.IsSorted(got))
				require.LessOrEqual(t, len(got), int(first)+i)
			}
			require.ErrorIs(t, take(s.last+s.window+1), ErrBadFrame, "too far ahead")
		}
		require.Equal(t, want, got)
		require.Empty(t, s.early)
	}
}
