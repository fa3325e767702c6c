package tokenizer

import (
	"fmt"
	"unicode/utf8"
)

// bpe is a byte-pair encoding: a word is cut into characters, and the pair of
// neighbours that was merged first in training is merged, until none is left.
type bpe struct {
	ids    map[string]int32 // the vocabulary
	merges map[pair]merge

	unk      int32   // -1: none; characters without a token vanish
	fuseUnk  bool    // neighbouring unknown characters are one token
	bytes    []int32 // of the 256 bytes, -1 where there is none; nil: no byte fallback
	prefix   string  // before every character but the first
	suffix   string  // behind the last character
	wholeIDs bool    // a word that is a token is that token, whatever the merges
}

// pair is two neighbouring tokens.
type pair struct{ left, right int32 }

// merge says when a pair is merged, and to what.
type merge struct{ rank, id int32 }

// Work of a character that is looked up, and of a pair that is merged.
const (
	characterWork = 16
	mergeWork     = 64
)

// encode appends the ids of a word.
func (b *bpe) encode(w *work, dst []int32, word string) []int32 {
	w.spend(characterWork * len(word))
	if b.wholeIDs {
		if id, ok := b.ids[word]; ok {
			return append(dst, id)
		}
	}
	return append(dst, b.mergeAll(w, b.characters(word))...)
}

// characters returns the tokens of the word's characters.
func (b *bpe) characters(word string) []int32 {
	out := make([]int32, 0, len(word))
	unknown := false // the last character was, and its token is not written yet
	for at := 0; at < len(word); {
		_, size := utf8.DecodeRuneInString(word[at:])
		s := b.affixed(word, at, at+size)
		at += size
		if id, ok := b.ids[s]; ok {
			if unknown {
				out, unknown = append(out, b.unk), false
			}
			out = append(out, id)
			continue
		}
		if n := len(out); b.bytes != nil {
			if out = b.fallback(out, s); len(out) > n {
				continue
			}
		}
		if unknown && !b.fuseUnk {
			out = append(out, b.unk)
		}
		unknown = b.unk >= 0
	}
	if unknown {
		out = append(out, b.unk)
	}
	return out
}

// affixed is a character as the vocabulary has it.
func (b *bpe) affixed(word string, begin, end int) string {
	s := word[begin:end]
	if begin > 0 && b.prefix != "" {
		s = b.prefix + s
	}
	if end == len(word) && b.suffix != "" {
		s += b.suffix
	}
	return s
}

// fallback appends the tokens of the bytes of s, where all have one.
func (b *bpe) fallback(dst []int32, s string) []int32 {
	n := len(dst)
	for i := range len(s) {
		id := b.bytes[s[i]]
		if id < 0 {
			return dst[:n]
		}
		dst = append(dst, id)
	}
	return dst
}

// byteToken is how a vocabulary with byte fallback writes a byte.
func byteToken(b byte) string { return fmt.Sprintf("<0x%02X>", b) }

// candidate is a merge of the token at left with the one behind it. It may be
// outdated.
type candidate struct {
	merge
	left int32
}

// before orders candidates: by rank, then from left to right.
func (c candidate) before(d candidate) bool {
	if c.rank != d.rank {
		return c.rank < d.rank
	}
	return c.left < d.left
}

// merging is a word while its tokens are merged: a doubly linked list in place,
// and a heap of the pairs in it, some of them outdated.
type merging struct {
	*bpe
	ids        []int32 // -1: merged into the one before
	next, prev []int32
	heap       []candidate
}

// mergeAll merges until no pair is left: O(n log n). Where two pairs have one
// rank, which is where they are the same, the left one comes first.
func (b *bpe) mergeAll(w *work, ids []int32) []int32 {
	if len(ids) < 2 || len(b.merges) == 0 {
		return ids
	}
	const size = 2*4 + 2*16 // of what is remembered for each: its neighbours and candidates
	w.grow(size * len(ids))
	m := &merging{bpe: b, ids: ids, next: make([]int32, len(ids)), prev: make([]int32, len(ids))}
	for i := range ids {
		m.next[i], m.prev[i] = int32(i+1), int32(i-1)
	}
	for i := range ids {
		if found, ok := m.at(int32(i)); ok {
			m.heap = append(m.heap, candidate{found, int32(i)})
		}
	}
	for i := len(m.heap)/2 - 1; i >= 0; i-- {
		m.sink(i)
	}
	for len(m.heap) > 0 {
		w.spend(mergeWork)
		m.apply(m.pop())
	}
	out := ids[:0]
	for _, id := range ids {
		if id >= 0 {
			out = append(out, id)
		}
	}
	return out
}

// consider pushes the pair that begins at left, where there is one to merge.
func (m *merging) consider(left int32) {
	if found, ok := m.at(left); ok {
		m.push(candidate{found, left})
	}
}

// at looks up the pair that begins at left.
func (m *merging) at(left int32) (merge, bool) {
	if left < 0 || int(m.next[left]) >= len(m.ids) {
		return merge{}, false
	}
	found, ok := m.merges[pair{m.ids[left], m.ids[m.next[left]]}]
	return found, ok
}

// apply merges a pair, unless it has changed meanwhile. Like Hugging Face it
// asks for the result: where another pair that gives the same token now stands
// there, that is merged.
func (m *merging) apply(c candidate) {
	if found, ok := m.at(c.left); !ok || found.id != c.id {
		return
	}
	right := m.next[c.left]
	m.ids[c.left], m.ids[right] = c.id, -1
	m.next[c.left] = m.next[right]
	if after := m.next[right]; int(after) < len(m.ids) {
		m.prev[after] = c.left
	}
	m.consider(m.prev[c.left])
	m.consider(c.left)
}

func (m *merging) push(c candidate) {
	m.heap = append(m.heap, c)
	i := len(m.heap) - 1
	for i > 0 {
		parent := (i - 1) / 2
		if !m.heap[i].before(m.heap[parent]) {
			break
		}
		m.heap[i], m.heap[parent] = m.heap[parent], m.heap[i]
		i = parent
	}
}

func (m *merging) pop() candidate {
	top, n := m.heap[0], len(m.heap)-1
	m.heap[0] = m.heap[n]
	m.heap = m.heap[:n]
	m.sink(0)
	return top
}

// sink moves a candidate behind those that come before it.
func (m *merging) sink(i int) {
	for n := len(m.heap); ; {
		child := 2*i + 1
		if child+1 < n && m.heap[child+1].before(m.heap[child]) {
			child++
		}
		if child >= n || !m.heap[child].before(m.heap[i]) {
			return
		}
		m.heap[i], m.heap[child] = m.heap[child], m.heap[i]
		i = child
	}
}
