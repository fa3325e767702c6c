package checkpoint

import (
	"testing"

	"github.com/stretchr/testify/require"
)

// TestRoomIsForTwoLargeJobs: one is read while another is packed, unless these are
// larger than all that may be in flight.
func TestRoomIsForTwoLargeJobs(t *testing.T) {
	const mixtral = 2 * 2 * 14336 * 4096 // bytes of an expert's gate and up
	for _, c := range []struct{ largest, want int64 }{
		{0, leastRoom}, {1 << 20, leastRoom}, {mixtral, 2 * mixtral}, {mostRoom, mostRoom}, {1 << 40, mostRoom},
	} {
		require.Equal(t, c.want, roomFor([]task{{bytes: 1}, {bytes: c.largest}, {bytes: 2}}))
	}
}

// TestBuffersAreLent: the smallest that is large enough, and free ones go before
// there are more bytes than there may be.
func TestBuffersAreLent(t *testing.T) {
	b := buffers{most: 100}
	small, large := b.take(10), b.take(60)
	b.put(large)
	b.put(small)
	require.Len(t, b.take(9), 10, "a large one stays free for what needs it")
	require.Len(t, b.take(9), 60)
	require.EqualValues(t, 70, b.bytes)
	b.put(large)
	b.put(small)
	require.Len(t, b.take(80), 80)
	require.Empty(t, b.free)
	require.EqualValues(t, 80, b.bytes)
	require.Len(t, b.take(200), 200, "nothing that is lent goes")
	require.EqualValues(t, 280, b.bytes)
}
