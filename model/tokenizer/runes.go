package tokenizer

import (
	"sort"
	"unicode"
	"unicode/utf8"
)

// span is the code points lo..hi, both included.
type span struct{ lo, hi rune }

// spans is a set of code points: sorted, disjoint, not touching.
type spans []span

const maxRune = unicode.MaxRune

// union returns the code points of any of the sets.
func union(sets ...spans) spans {
	var all spans
	for _, s := range sets {
		all = append(all, s...)
	}
	sort.Slice(all, func(i, j int) bool { return all[i].lo < all[j].lo })
	var out spans
	for _, s := range all {
		if n := len(out); n > 0 && s.lo <= out[n-1].hi+1 {
			out[n-1].hi = max(out[n-1].hi, s.hi)
			continue
		}
		out = append(out, s)
	}
	return out
}

// complement returns the code points that are not in s.
func (s spans) complement() spans {
	var out spans
	next := rune(0)
	for _, r := range s {
		if next < r.lo {
			out = append(out, span{next, r.lo - 1})
		}
		next = r.hi + 1
	}
	if next <= maxRune {
		out = append(out, span{next, maxRune})
	}
	return out
}

func (s spans) minus(t spans) spans { return union(s.complement(), t).complement() }

func (s spans) intersect(t spans) spans {
	return union(s.complement(), t.complement()).complement()
}

func (s spans) has(r rune) bool {
	i := sort.Search(len(s), func(i int) bool { return s[i].hi >= r })
	return i < len(s) && s[i].lo <= r
}

// lastCased is the last code point that has another case.
const lastCased = 0x1E943

// fold adds the other cases of every code point, by Unicode's simple folding.
func (s spans) fold() spans {
	var others spans
	for _, r := range s {
		for c := r.lo; c <= min(r.hi, lastCased); c++ {
			for f := unicode.SimpleFold(c); f != c; f = unicode.SimpleFold(f) {
				others = append(others, span{f, f})
			}
		}
	}
	return union(s, others)
}

// fromTable lists a table of package unicode.
func fromTable(t *unicode.RangeTable) spans {
	var out spans
	add := func(lo, hi, stride rune) {
		if stride == 1 {
			out = append(out, span{lo, hi})
			return
		}
		for c := lo; c <= hi; c += stride {
			out = append(out, span{c, c})
		}
	}
	for _, r := range t.R16 {
		add(rune(r.Lo), rune(r.Hi), rune(r.Stride))
	}
	for _, r := range t.R32 {
		add(rune(r.Lo), rune(r.Hi), rune(r.Stride))
	}
	return union(out)
}

// runeSet answers membership fast: a bitmap of 256-code-point pages, equal
// pages shared.
type runeSet struct {
	index [(maxRune + 1) >> 8]uint16
	pages [][4]uint64
}

// newRuneSet packs s.
func newRuneSet(s spans) *runeSet {
	rs := &runeSet{}
	seen := map[[4]uint64]uint16{}
	for page := range rs.index {
		bits := pageBits(s, rune(page)<<8)
		id, ok := seen[bits]
		if !ok {
			id = uint16(len(rs.pages))
			seen[bits] = id
			rs.pages = append(rs.pages, bits)
		}
		rs.index[page] = id
	}
	return rs
}

// pageBits returns the members of s in base..base+255.
func pageBits(s spans, base rune) (bits [4]uint64) {
	i := sort.Search(len(s), func(i int) bool { return s[i].hi >= base })
	for ; i < len(s) && s[i].lo <= base+255; i++ {
		for c := max(s[i].lo, base); c <= min(s[i].hi, base+255); c++ {
			bits[(c-base)>>6] |= 1 << (uint(c) & 63)
		}
	}
	return bits
}

// has reports whether r, at most unicode.MaxRune, is a member.
func (rs *runeSet) has(r rune) bool {
	page := &rs.pages[rs.index[uint32(r)>>8]]
	return page[uint32(r)>>6&3]>>(uint32(r)&63)&1 != 0
}

// run returns how many bytes at the start of s are members, at most limit code
// points (limit < 0: all), and how many code points that is.
func (rs *runeSet) run(s string, limit int) (bytes, runes int) {
	for bytes < len(s) && runes != limit {
		r, size := rune(s[bytes]), 1
		if r >= utf8.RuneSelf {
			r, size = utf8.DecodeRuneInString(s[bytes:])
		}
		if !rs.has(r) {
			break
		}
		bytes += size
		runes++
	}
	return bytes, runes
}
