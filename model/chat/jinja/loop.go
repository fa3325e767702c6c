package jinja

// loop is the variable loop.
type loop struct {
	items []Value
	at    int
	depth int64 // 1: outermost of a recursive one
	// again renders the loop's body for other items, where it is recursive.
	again   func(m *machine, items Value, depth int64) string
	changed []Value // what changed was called with last
	called  bool
}

func (f forStmt) exec(m *machine, s *scope) signal {
	f.over(m, s, m.eval(f.iterable, s), 1)
	return done
}

// over runs the loop. Like Jinja2 it goes on to else where no iteration came to
// its end: neither break nor continue lets one.
func (f forStmt) over(m *machine, s *scope, iterable Value, depth int64) {
	l := &loop{items: f.filtered(m, s, m.mustIterate(iterable)), depth: depth}
	m.use(int64(len(l.items)) * valueSize)
	if f.recursive {
		l.again = func(m *machine, items Value, depth int64) string {
			defer m.enter()()
			return m.capture(func() { f.over(m, s, items, depth) })
		}
	}
	completed := false
	for i, v := range l.items {
		m.spend(2 * stepWork)
		l.at = i
		inner := s.inner()
		inner.set("loop", l)
		m.assign(inner, f.target, v)
		sig := f.body.exec(m, inner)
		completed = completed || sig == done
		if sig == broken {
			break
		}
	}
	if !completed {
		f.otherwise.exec(m, s.inner())
	}
}

// filtered returns the items that pass the loop's test.
func (f forStmt) filtered(m *machine, s *scope, items []Value) []Value {
	if f.test == nil {
		return items
	}
	var out []Value
	for _, v := range items {
		m.spend(stepWork)
		inner := s.inner()
		m.assign(inner, f.target, v)
		if truth(m.eval(f.test, inner)) {
			out = append(out, v)
		}
	}
	return out
}

// item returns an item by its place.
func (l *loop) item(i int) Value {
	if i < 0 || i >= len(l.items) {
		return &Undefined{"there is no such item of the loop"}
	}
	return l.items[i]
}

// attribute returns one of the loop's attributes.
func (l *loop) attribute(name string) (Value, bool) {
	n, at := int64(len(l.items)), int64(l.at)
	switch name {
	case "index":
		return at + 1, true
	case "index0":
		return at, true
	case "revindex":
		return n - at, true
	case "revindex0":
		return n - at - 1, true
	case "first":
		return at == 0, true
	case "last":
		return at == n-1, true
	case "length":
		return n, true
	case "depth":
		return l.depth, true
	case "depth0":
		return l.depth - 1, true
	case "previtem":
		return l.item(l.at - 1), true
	case "nextitem":
		return l.item(l.at + 1), true
	case "cycle":
		return &function{"cycle", l.cycle}, true
	case "changed":
		return &function{"changed", l.changes}, true
	}
	return nil, false
}

func (l *loop) cycle(_ *machine, a *args) Value {
	if len(a.positional) == 0 {
		raise("no items for cycling given")
	}
	return a.positional[l.at%len(a.positional)]
}

// changes reports whether it is called with other values than the last time.
func (l *loop) changes(m *machine, a *args) Value {
	same := l.called && m.equalItems(l.changed, a.positional)
	l.called, l.changed = true, a.positional
	return !same
}
