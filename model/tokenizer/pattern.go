package tokenizer

import (
	"fmt"
	"strings"
	"unicode/utf8"
)

// pattern is a compiled regular expression. It matches by backtracking, as
// Oniguruma does, and so finds the same: the first alternative that leads to a
// match, not the longest. Unlike there a search cannot take exponential time:
// see matcher.failed.
type pattern struct {
	start *node
	nodes int
}

// node is a step of a pattern; next follows it. nil is the end of the pattern,
// or of a group that is matched by itself.
type node struct {
	kind nodeKind
	id   int
	next *node

	set      *runeSet // run, behind
	min, max int      // run; max < 0: unbounded
	mode     repeatMode
	options  []*node // branch: each leads on to next by itself
	sub      *node   // look, once
	negate   bool    // look, behind
	anchor   anchorKind
}

type nodeKind int

const (
	run    nodeKind = iota // min to max characters of a set
	branch                 // the first option that leads to a match
	once                   // sub by itself, without giving back
	ahead                  // whether sub matches here
	behind                 // whether the character before is of a set
	assert                 // an anchor
)

// maxNodes bounds a pattern: counted groups are written out.
const maxNodes = 256

// compilePattern reads a pattern of Oniguruma's syntax.
func compilePattern(text string) (*pattern, error) {
	e, err := parsePattern(text)
	if err != nil {
		return nil, err
	}
	return link(text, e)
}

// link makes a pattern of an expression; text is for errors.
func link(text string, e expr) (*pattern, error) {
	c := &patternCompiler{sets: map[string]*runeSet{}}
	start := c.link(e, nil)
	if c.err != nil {
		return nil, fmt.Errorf("pattern %q: %w", text, c.err)
	}
	return &pattern{start: start, nodes: c.nodes}, nil
}

type patternCompiler struct {
	sets  map[string]*runeSet
	nodes int
	err   error
}

func (c *patternCompiler) node(n node) *node {
	if c.nodes == maxNodes && c.err == nil {
		c.err = fmt.Errorf("more than %d steps", maxNodes)
	}
	n.id = c.nodes
	c.nodes++
	return &n
}

// set packs a set, once for all places where it occurs.
func (c *patternCompiler) set(s spans) *runeSet {
	key := fmt.Sprint(s)
	if c.sets[key] == nil {
		c.sets[key] = newRuneSet(s)
	}
	return c.sets[key]
}

// link compiles e with what follows it.
func (c *patternCompiler) link(e expr, next *node) *node {
	if c.err != nil {
		return nil
	}
	switch e := e.(type) {
	case oneOf:
		return c.node(node{kind: run, set: c.set(e.set), min: 1, max: 1, next: next})
	case sequence:
		for i := len(e.parts) - 1; i >= 0; i-- {
			next = c.link(e.parts[i], next)
		}
		return next
	case choice:
		return c.choice(e, next)
	case repeat:
		return c.repeat(e, next)
	case atomic:
		return c.node(node{kind: once, sub: c.link(e.sub, nil), next: next})
	case look:
		return c.look(e, next)
	case anchor:
		n := c.node(node{kind: assert, anchor: e.kind, next: next})
		if e.kind == wordEdge || e.kind == notWordEdge {
			n.set = c.set(wordClass())
		}
		return n
	}
	panic(fmt.Sprintf("tokenizer: unknown expression %T", e))
}

func (c *patternCompiler) choice(e choice, next *node) *node {
	n := c.node(node{kind: branch})
	for _, o := range e.options {
		n.options = append(n.options, c.link(o, next))
	}
	return n
}

func (c *patternCompiler) look(e look, next *node) *node {
	if !e.behind {
		return c.node(node{kind: ahead, sub: c.link(e.sub, nil), negate: e.negate, next: next})
	}
	one, ok := e.sub.(oneOf)
	if !ok && c.err == nil {
		c.err = fmt.Errorf("a lookbehind of anything but one character is not supported")
		return nil
	}
	return c.node(node{kind: behind, set: c.set(one.set), negate: e.negate, next: next})
}

func (c *patternCompiler) repeat(e repeat, next *node) *node {
	if e.mode == possessive {
		inner := repeat{e.sub, e.min, e.max, greedy}
		return c.link(atomic{inner}, next)
	}
	if one, ok := e.sub.(oneOf); ok {
		return c.node(node{kind: run, set: c.set(one.set), min: e.min, max: e.max, mode: e.mode, next: next})
	}
	if e.max < 0 {
		next = c.loop(e, next)
	} else {
		for range e.max - e.min {
			next = c.optional(e, next)
		}
	}
	for range e.min {
		next = c.link(e.sub, next)
	}
	return next
}

// optional compiles sub?, with what follows.
func (c *patternCompiler) optional(e repeat, next *node) *node {
	n := c.node(node{kind: branch})
	n.options = order(e.mode, c.link(e.sub, next), next)
	return n
}

// loop compiles sub*, with what follows.
func (c *patternCompiler) loop(e repeat, next *node) *node {
	if minLength(e.sub) == 0 && c.err == nil {
		c.err = fmt.Errorf("a repeat of what can match nothing is not supported")
		return nil
	}
	n := c.node(node{kind: branch})
	n.options = order(e.mode, c.link(e.sub, n), next)
	return n
}

// order returns the ways of a repeat: again first, or on first.
func order(mode repeatMode, again, on *node) []*node {
	if mode == lazy {
		return []*node{on, again}
	}
	return []*node{again, on}
}

// minLength is the least number of characters that e matches.
func minLength(e expr) int {
	switch e := e.(type) {
	case oneOf:
		return 1
	case sequence:
		n := 0
		for _, p := range e.parts {
			n += minLength(p)
		}
		return n
	case choice:
		n := minLength(e.options[0])
		for _, o := range e.options[1:] {
			n = min(n, minLength(o))
		}
		return n
	case repeat:
		return e.min * minLength(e.sub)
	case atomic:
		return minLength(e.sub)
	}
	return 0
}

// each calls yield with the matches in text, from left to right, as byte
// offsets. An empty match right behind another is left out.
func (p *pattern) each(w *work, text string, yield func(begin, end int)) {
	m := matcher{pattern: p, text: text, work: w}
	last := -1
	for at := 0; at <= len(text); {
		end := m.match(p.start, at)
		if end < 0 || end == at && at == last {
			at += width(text, at)
			continue
		}
		yield(at, end)
		at, last = end, end
	}
}

// width is the length of the character at a place, 1 at the end of the text.
func width(text string, at int) int {
	if at == len(text) || text[at] < utf8.RuneSelf {
		return 1
	}
	_, size := utf8.DecodeRuneInString(text[at:])
	return size
}

// Bounds of a search.
const (
	// freeSteps per byte of text are taken before failures are remembered.
	freeSteps = 16
	// maxDepth is how deep branches nest: a repeat of a group ends there, before
	// the stack overflows.
	maxDepth = 1 << 19
	// matchWork is the work of a step.
	matchWork = 8
)

// matcher is a search in one text.
type matcher struct {
	*pattern
	*work
	text  string
	steps int
	depth int
	// failed has for each node that has a choice the places from which no match
	// follows, as bits. There are no back-references, so that what failed once
	// fails again. It is kept only when a search has become long, and bounds it:
	// from then on each such node is tried once at each place.
	failed [][]uint64
}

// match returns where a match from n at a place ends, or -1.
func (m *matcher) match(n *node, at int) int {
	m.spend(matchWork)
	return m.walk(n, at)
}

// choose returns where a match from a node that has a choice ends, or -1.
func (m *matcher) choose(n *node, at int) int {
	m.steps++
	if m.steps < freeSteps*(len(m.text)+1024) {
		end, _ := m.try(n, at)
		return end
	}
	failed := m.failures(n)
	if failed[at>>6]>>(uint(at)&63)&1 != 0 {
		return -1
	}
	end, last := m.try(n, at)
	if end < 0 {
		mark(failed, at, last)
	}
	return end
}

// try tries a node's choices. Where none leads to a match, none does from any
// place up to last.
func (m *matcher) try(n *node, at int) (end, last int) {
	if n.kind == branch {
		return m.branch(n, at), at
	}
	return m.runs(n, at)
}

// mark sets the bits of the places from first to last.
func mark(places []uint64, first, last int) {
	for i := first >> 6; i <= last>>6; i++ {
		bits := ^uint64(0)
		if i == first>>6 {
			bits &= ^uint64(0) << (uint(first) & 63)
		}
		if i == last>>6 {
			bits &= ^uint64(0) >> (63 - uint(last)&63)
		}
		places[i] |= bits
	}
}

func (m *matcher) failures(n *node) []uint64 {
	if m.failed == nil {
		m.failed = make([][]uint64, m.nodes)
	}
	if m.failed[n.id] == nil {
		m.grow(len(m.text) / 8)
		m.failed[n.id] = make([]uint64, len(m.text)>>6+1)
	}
	return m.failed[n.id]
}

func (m *matcher) walk(n *node, at int) int {
	for n != nil {
		switch n.kind {
		case run:
			if n.next == nil && n.mode == greedy {
				return m.longest(n, at)
			}
			if n.min != n.max {
				return m.choose(n, at)
			}
			if at = m.longest(n, at); at < 0 {
				return -1
			}
		case branch:
			return m.choose(n, at)
		case once:
			if at = m.match(n.sub, at); at < 0 {
				return -1
			}
		default:
			if !m.holds(n, at) {
				return -1
			}
		}
		n = n.next
	}
	return at
}

// longest returns the end of the longest run, or -1 where it is too short.
func (m *matcher) longest(n *node, at int) int {
	bytes, runes := n.set.run(m.text[at:], n.max)
	m.spend(1 + 2*bytes)
	if runes < n.min {
		return -1
	}
	return at + bytes
}

// runs tries the lengths of a run, longest first or, where it is lazy, shortest
// first. Where a run has no upper bound and none of its ends leads to a match, a
// run that begins later in it cannot either: its ends are some of the same.
func (m *matcher) runs(n *node, at int) (end, last int) {
	bytes, runes := n.set.run(m.text[at:], n.max)
	m.spend(1 + 2*bytes)
	m.steps += runes
	if last = at; n.max < 0 {
		last = at + bytes
	}
	if n.mode == lazy {
		return m.growing(n, at, at+bytes, runes), last
	}
	return m.shrinking(n, at+bytes, runes), last
}

func (m *matcher) shrinking(n *node, end, runes int) int {
	for ; runes >= n.min; runes-- {
		if found := m.match(n.next, end); found >= 0 {
			return found
		}
		_, size := utf8.DecodeLastRuneInString(m.text[:end])
		end -= size
	}
	return -1
}

func (m *matcher) growing(n *node, at, limit, most int) int {
	for runes := 0; runes <= most; runes++ {
		if runes >= n.min {
			if found := m.match(n.next, at); found >= 0 {
				return found
			}
		}
		if at < limit {
			at += width(m.text, at)
		}
	}
	return -1
}

func (m *matcher) branch(n *node, at int) int {
	if m.depth == maxDepth {
		return -1
	}
	m.depth++
	end := -1
	for i := 0; i < len(n.options) && end < 0; i++ {
		end = m.match(n.options[i], at)
	}
	m.depth--
	return end
}

// holds reports whether an assertion is true at a place.
func (m *matcher) holds(n *node, at int) bool {
	switch n.kind {
	case ahead:
		return (m.match(n.sub, at) >= 0) != n.negate
	case behind:
		return m.before(n.set, at) != n.negate
	}
	switch n.anchor {
	case lineBegin:
		return at == 0 || m.text[at-1] == '\n' && at < len(m.text)
	case lineEnd:
		return at == len(m.text) || m.text[at] == '\n'
	case textBegin:
		return at == 0
	case textEnd:
		return at == len(m.text)
	case textEndNewline:
		return strings.TrimSuffix(m.text[at:], "\n") == ""
	default:
		edge := m.before(n.set, at) != m.after(n.set, at)
		return edge == (n.anchor == wordEdge)
	}
}

func (m *matcher) before(set *runeSet, at int) bool {
	r, size := utf8.DecodeLastRuneInString(m.text[:at])
	return size > 0 && set.has(r)
}

func (m *matcher) after(set *runeSet, at int) bool {
	r, size := utf8.DecodeRuneInString(m.text[at:])
	return size > 0 && set.has(r)
}
