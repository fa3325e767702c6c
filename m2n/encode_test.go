package m2n

import (
	"slices"

	"github.com/tandem-moe/tandem/m2n/internal/wire"
)

// encode returns a whole frame as it is on a stream.
func encode(f wire.Frame, body []byte) []byte {
	var b wire.Batch
	b.AddFrame(&f)
	b.AddBody(body)
	var stream []byte
	for pieces := b.Next(); len(pieces) > 0; pieces = b.Next() {
		piece := slices.Concat(pieces...)
		stream = append(stream, piece...)
		b.Advance(len(piece))
	}
	return stream
}
