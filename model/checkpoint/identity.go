package checkpoint

import (
	"crypto/sha256"
	"encoding/binary"
	"fmt"
	"hash"
	"slices"

	"github.com/cespare/xxhash/v2"
)

// Digest identifies a weight by all of its bytes, its type and its shape, and not
// by its name or place in a file: an expert's matrix has the same one whether it
// is a tensor or a part of a joint tensor.
//
// It is XXH64, which runs at memory speed where SHA-256 takes five times as long.
// It finds a damaged or another file (two that differ agree with a probability
// of 2⁻⁶⁴); it proves nothing about who made the file.
type Digest uint64

// String writes a digest as 16 hexadecimal digits.
func (d Digest) String() string { return fmt.Sprintf("%016x", uint64(d)) }

// digest is the digest of a weight's bytes, which begins with type and shape.
func digest(t DType, shape []int, feed func(*xxhash.Digest) error) (Digest, error) {
	h := xxhash.New()
	_, _ = fmt.Fprintf(h, "%s %v\n", t, shape)
	err := feed(h)
	return Digest(h.Sum64()), err
}

// Digest identifies a weight that is in memory.
func (t Tensor) Digest() Digest {
	d, _ := digest(t.DType, t.Shape, func(h *xxhash.Digest) error {
		_, err := h.Write(t.Data)
		return err
	})
	return d
}

// digestPiece is how much is read at a time to compute a digest: it stays in a
// core's cache.
const digestPiece = 1 << 20

// pieces reads a weight piece by piece into a buffer, which has room for one piece
// or, where whole is set, for all of them one after the other. It returns the
// digest, whose computation finds each piece in the cache.
func (w weight) pieces(buffer []byte, whole bool) (Digest, error) {
	return digest(w.dtype, w.ref.Shape, func(h *xxhash.Digest) error {
		for at := w.from; at < w.to; at += digestPiece {
			end := min(at+digestPiece, w.to)
			piece, err := w.bytes(at, end, buffer)
			if err != nil {
				return err
			}
			_, _ = h.Write(piece)
			if whole {
				buffer = buffer[end-at:]
			}
		}
		return nil
	})
}

// load returns a weight, in buffer where it has to be read, and its digest.
func (w weight) load(buffer []byte) (Tensor, Digest, error) {
	if _, held := w.held(0, 0); held {
		t, err := w.read(nil)
		return t, t.Digest(), err
	}
	d, err := w.pieces(buffer, true)
	return Tensor{DType: w.dtype, Shape: w.ref.Shape, Data: buffer[:w.length():w.length()]}, d, err
}

// Same says whether two tensors have the same type, shape and bytes. It reads
// until they differ.
func (c *Checkpoint) Same(a, b string) (bool, error) {
	p, ok := c.tensors[a]
	q, also := c.tensors[b]
	switch {
	case !ok:
		return false, c.missing(a)
	case !also:
		return false, c.missing(b)
	case p.dtype != q.dtype || !slices.Equal(p.shape, q.shape):
		return false, nil
	}
	left, right := make([]byte, digestPiece), make([]byte, digestPiece)
	for at := int64(0); at < p.size(); at += digestPiece {
		end := min(at+digestPiece, p.size())
		x, err := p.bytes(at, end, left)
		if err != nil {
			return false, err
		}
		y, err := q.bytes(at, end, right)
		if err != nil {
			return false, err
		}
		if string(x) != string(y) {
			return false, nil
		}
	}
	return true, nil
}

// Digests are those of a list of weights, in its order.
type Digests []Digest

// Sum identifies named weights: the SHA-256 over names and digests, in the
// given order.
func (d Digests) Sum(names []string) [sha256.Size]byte {
	h := sha256.New()
	for i, name := range names {
		part(h, []byte(name))
		part(h, binary.LittleEndian.AppendUint64(nil, uint64(d[i])))
	}
	return [sha256.Size]byte(h.Sum(nil))
}

// part adds bytes with their length, so that no two lists of parts look alike.
func part(h hash.Hash, b []byte) {
	h.Write(binary.LittleEndian.AppendUint64(nil, uint64(len(b))))
	h.Write(b)
}
