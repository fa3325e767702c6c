package wire

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
	var b Batch
	for range 200 {
		b.Reset()
		var want []byte
		frames := r.IntN(5)
		for i := range frames {
			spans := randomBody(r)
			body := bytes.Join(spans, nil)
			f := Frame{Kind: Data, Flags: FlagBodySum, Seq: uint64(i), Body: len(body), Header: make([]byte, r.IntN(100))}
			for _, s := range spans {
				f.Lengths = append(f.Lengths, len(s))
			}
			b.AddFrame(&f)
			for _, s := range spans {
				b.AddBody(s)
			}
			want = append(want, encode(f, body)...)
		}
		if frames == 0 {
			f := Frame{Kind: KeepAlive, Credits: 1}
			b.AddFrame(&f)
			want = encode(f, nil)
		}
		var got []byte
		for pieces := b.Next(); len(pieces) > 0; pieces = b.Next() {
			all := bytes.Join(pieces, nil)
			require.LessOrEqual(t, len(pieces), maxPieces)
			n := r.IntN(len(all) + 1)
			got = append(got, all[:n]...)
			b.Advance(n)
		}
		require.True(t, bytes.Equal(want, got))
	}
}

// randomBody has some long spans, many short ones, or none.
func randomBody(r *rand.Rand) (spans [][]byte) {
	longest := []int{1, 10, 3 * Piece}[r.IntN(3)]
	memory := make([]byte, longest)
	for i := range memory {
		memory[i] = byte(i * 7)
	}
	for range r.IntN(2*maxPieces/longest*2 + 3) {
		spans = append(spans, memory[:r.IntN(longest+1)])
	}
	return spans
}
