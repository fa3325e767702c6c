package shm

import (
	"bytes"
	"encoding/binary"
	"math/rand/v2"
	"slices"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/tandem-moe/tandem/m2n/internal/wire"
)

func newRing(t testing.TB, slots, slotBytes, headerBytes int) *Ring {
	t.Helper()
	layout, err := NewLayout(slots, slotBytes, headerBytes)
	require.NoError(t, err)
	return NewRing(make([]byte, layout.Bytes), layout)
}

// TestRingCarriesMessages: what is read of each message is what was written, the body
// in the slot that the sender chose, while slots and counts go round many times.
func TestRingCarriesMessages(t *testing.T) {
	r := newRing(t, 3, 100, 20)
	random := rand.New(rand.NewPCG(1, 2))
	for n := range uint64(20) {
		slot := random.IntN(3)
		w := r.Write(slot)
		var body []byte
		var lengths []int
		for range random.IntN(4) {
			span := bytes.Repeat([]byte{byte(n)}, random.IntN(33))
			w.Span(span)
			body, lengths = append(body, span...), append(lengths, len(span))
		}
		header := make([]byte, random.IntN(21))
		r.Publish(n, w, header, time.Now())
		require.Equal(t, n+1, r.Posted().Load())

		m, err := r.Read(n)
		require.NoError(t, err)
		require.Equal(t, slot, m.Slot)
		require.Equal(t, len(body), m.Body)
		require.True(t, bytes.Equal(header, m.Header))
		require.True(t, slices.Equal(lengths, m.Lengths))
		require.True(t, bytes.Equal(body, r.Bodies()[slot*r.Stride:][:m.Body]))
		require.WithinDuration(t, time.Now(), m.Posted, 30*time.Second)

		r.PutReturn(n, slot)
		require.Equal(t, n+1, r.Returned().Load())
		require.Equal(t, slot, r.Return(n))
	}
}

// TestLayoutIsBounded: a peer's limits are checked before anything of that size is
// mapped, and parts of a ring do not overlap.
func TestLayoutIsBounded(t *testing.T) {
	_, err := NewLayout(1<<16, 1<<31-1, 1)
	require.ErrorContains(t, err, "for 65536 slots of 2147483647 bytes, the limit is 1099511627776")
	l, err := NewLayout(5, 100, 10)
	require.NoError(t, err)
	require.Equal(t, 128, l.Stride)
	ends := []int{RingHeaderBytes + 5*descriptorBytes, l.returns + 5*4, l.metas + 5*l.metaBytes, l.bodies + 5*l.Stride}
	for i, begin := range []int{l.returns, l.metas, l.bodies, l.Bytes} {
		require.GreaterOrEqual(t, begin, ends[i])
	}
}

// FuzzRing: whatever a peer has written into a ring, Read returns a message within
// its slot, or an error that wraps ErrBadFrame.
func FuzzRing(f *testing.F) {
	le := binary.LittleEndian
	descriptor := func(slot, header, spans uint32, body uint64) []byte {
		d := make([]byte, descriptorBytes)
		le.PutUint32(d, slot)
		le.PutUint32(d[4:], header)
		le.PutUint32(d[8:], spans)
		le.PutUint64(d[16:], body)
		return d
	}
	f.Add(descriptor(1, 4, 1, 4), []byte{4, 0, 0, 0, 'h', 'e', 'a', 'd'})
	f.Add(descriptor(2, 4, 1, 4), []byte{4})
	f.Add(descriptor(0, 4, 1<<31, 4), []byte{})
	f.Add(descriptor(0, 11, 1, 1<<40), []byte{})
	f.Fuzz(func(t *testing.T, d, meta []byte) {
		r := newRing(t, 2, 100, 10)
		copy(r.mem[RingHeaderBytes:r.metas], d)
		copy(r.Meta(0), meta)
		copy(r.Meta(1), meta)
		m, err := r.Read(0)
		if err != nil {
			require.ErrorIs(t, err, wire.ErrBadFrame)
			return
		}
		require.Less(t, m.Slot, 2)
		require.LessOrEqual(t, m.Body, 100)
		require.LessOrEqual(t, len(m.Header), 10)
		sum := 0
		for _, n := range m.Lengths {
			sum += n
		}
		require.Equal(t, m.Body, sum)
	})
}
