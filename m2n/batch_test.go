package m2n

import (
	"bytes"
	"math/rand/v2"
	"testing"

	"github.com/stretchr/testify/require"
)

// TestBatch: whatever the kernel takes at a time, what leaves is what the obvious
// encoding gives.
func TestBatch(t *testing.T) {
	r := rand.New(rand.NewPCG(1, 2))
	var b batch
	for range 200 {
		b.reset()
		var want []byte
		for i := range r.IntN(5) {
			o := randomMessage(r)
			f := frame{kind: frameData, flags: flagBodySum, seq: uint64(i), body: o.bytes, lengths: o.lengths(), header: o.header}
			b.messages = append(b.messages, o)
			b.frames = append(b.frames, f)
			var body []byte
			for _, s := range o.body {
				body = append(body, s.Bytes()...)
			}
			want = append(want, encode(f, body)...)
		}
		if len(b.frames) == 0 {
			note := frame{kind: frameNote, grant: 1}
			b.frames = append(b.frames, note)
			want = encode(note, nil)
		}
		b.encode()
		var got []byte
		for pieces := b.next(); len(pieces) > 0; pieces = b.next() {
			all := bytes.Join(pieces, nil)
			require.LessOrEqual(t, len(pieces), maxPieces)
			n := r.IntN(len(all) + 1)
			got = append(got, all[:n]...)
			b.advance(n)
		}
		require.True(t, bytes.Equal(want, got))
	}
}

// randomMessage has some long spans, many short ones, or none.
func randomMessage(r *rand.Rand) *outgoing {
	o := &outgoing{header: zeros(r.IntN(100))}
	longest := []int{1, 10, 3 * piece}[r.IntN(3)]
	region := &Region{Bytes: zeros(longest)}
	for i := range region.Bytes {
		region.Bytes[i] = byte(i * 7)
	}
	for range r.IntN(2*maxPieces/longest*2 + 3) {
		s := Span{region, 0, r.IntN(longest + 1)}
		o.body = append(o.body, s)
		o.bytes += s.Len
	}
	return o
}
