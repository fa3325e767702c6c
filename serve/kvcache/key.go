package kvcache

import (
	"crypto/sha256"
	"encoding/binary"
)

// Key names what a full page holds. Keys form a chain: the key of a sequence's
// page i is SHA-256, cut to 128 bits, of the key of page i−1 and the tokens of
// page i; the first page follows the hash of the [Identity]. So equal keys mean
// equal prefixes, except for collisions: their probability among 2⁴⁰ pages is
// 2⁻⁴⁹, and an attacker needs about 2⁶⁴ hashes to make one.
type Key [16]byte

// Identity is what all pages of a cache have in common. Pages with different
// identities never match.
type Identity struct {
	// Model is a hash of configuration and weights; Numerics names how values
	// are computed and kept. Neither is longer than 255 bytes.
	Model    string
	Numerics string
	// PageTokens is how many tokens a page holds.
	PageTokens int
}

// Root is the key that a sequence's first page follows.
func (id Identity) Root() Key {
	b := []byte("tandem kv 1")
	for _, s := range []string{id.Model, id.Numerics} {
		b = binary.LittleEndian.AppendUint32(b, uint32(len(s)))
		b = append(b, s...)
	}
	return cut(binary.LittleEndian.AppendUint32(b, uint32(id.PageTokens)))
}

// Keys appends to keys, the keys of the first len(keys) full pages of tokens, the
// keys of the remaining full pages. Tokens at the end that do not fill a page have
// no key.
func (id Identity) Keys(keys []Key, tokens []int32) []Key {
	n := id.PageTokens
	parent := id.parent(keys)
	var buf []byte
	for len(tokens) >= (len(keys)+1)*n {
		lo := len(keys) * n
		parent, buf = next(parent, tokens[lo:lo+n], buf)
		keys = append(keys, parent)
	}
	return keys
}

// parent is the key that the page after the given ones follows.
func (id Identity) parent(keys []Key) Key {
	if len(keys) == 0 {
		return id.Root()
	}
	return keys[len(keys)-1]
}

// next is the key of a page of tokens that follows parent. It uses buf as scratch
// and returns it, perhaps grown.
func next(parent Key, tokens []int32, buf []byte) (Key, []byte) {
	buf = append(buf[:0], parent[:]...)
	for _, t := range tokens {
		buf = binary.LittleEndian.AppendUint32(buf, uint32(t))
	}
	return cut(buf), buf
}

func cut(b []byte) Key {
	sum := sha256.Sum256(b)
	return Key(sum[:len(Key{})])
}
