package kernel

import (
	"testing"
	"unsafe"

	"github.com/stretchr/testify/require"
)

// address is where b begins.
func address(b []byte) uintptr { return uintptr(unsafe.Pointer(unsafe.SliceData(b))) }

// TestArena: pieces share huge pages, and live and end on their own.
func TestArena(t *testing.T) {
	var a arena
	take := func(n int) memory {
		m, err := a.allocate(n)
		require.NoError(t, err)
		require.Len(t, m.bytes, n)
		require.Zero(t, address(m.bytes)%cacheLine)
		if m.mapped == nil {
			t.Skip("memory cannot be mapped here")
		}
		return m
	}
	first, second, third := take(mappedFrom), take(mappedFrom+1), take(mappedFrom)
	require.Zero(t, address(first.bytes)%hugePage)
	require.Equal(t, address(first.mapped)+uintptr(len(first.mapped)), address(second.mapped))
	require.Equal(t, address(second.mapped)+uintptr(len(second.mapped)), address(third.mapped))
	fill := func(m memory) {
		for i := range m.bytes {
			m.bytes[i] = byte(i)
		}
	}
	fill(first)
	fill(second)
	fill(third)
	second.release()

	large := take(regionBytes + 1)
	require.Zero(t, address(large.bytes)%hugePage)
	rest := len(a.rest)
	next := take(regionBytes / 4)
	for len(a.rest) < rest { // until it is of another region
		rest = len(a.rest)
		next.release()
		next = take(regionBytes / 4)
	}
	require.Zero(t, address(next.bytes)%hugePage)
	fill(next)
	a.close()
	fill(large) // what was handed out stays
	for i := range first.bytes {
		require.Equal(t, byte(i), first.bytes[i])
		require.Equal(t, byte(i), third.bytes[i])
	}
	for _, m := range []memory{first, third, large, next} {
		m.release()
	}
}

// BenchmarkReadSmallPieces reads many pieces of 1 MB, as an expert's matrices are.
func BenchmarkReadSmallPieces(b *testing.B) {
	var a arena
	const pieces, bytes = 256, 1 << 20
	var all []memory
	for range pieces {
		m, err := a.allocate(bytes)
		require.NoError(b, err)
		for i := range m.bytes {
			m.bytes[i] = 1
		}
		all = append(all, m)
	}
	b.SetBytes(pieces * bytes)
	for b.Loop() {
		sum := uint64(0)
		for _, m := range all {
			for i := 0; i < bytes; i += cacheLine {
				sum += *(*uint64)(unsafe.Pointer(&m.bytes[i]))
			}
		}
		require.NotZero(b, sum)
	}
	for _, m := range all {
		m.release()
	}
}
