package jinja

// maxRange is the sandbox's bound of a range.
const maxRange = 100000

// globals are what every template can name, and functions.
func globals(functions map[string]func([]Value) (Value, error)) map[string]Value {
	g := map[string]Value{
		"range":     &function{"range", makeRange},
		"dict":      &function{"dict", makeDict},
		"namespace": &function{"namespace", makeNamespace},
		"cycler":    &function{"cycler", makeCycler},
		"joiner":    &function{"joiner", makeJoiner},
	}
	for name, f := range functions {
		g[name] = &function{name, func(_ *machine, a *args) Value {
			if a.named.Len() > 0 {
				raise("%s takes no keyword arguments", name)
			}
			v, err := f(a.positional)
			if err != nil {
				panic(&Error{Message: cutMessage(err.Error()), Cause: err})
			}
			return v
		}}
	}
	return g
}

func makeRange(_ *machine, a *args) Value {
	r := numbers{step: 1}
	b := a.bind("range", "start", "stop", "step")
	switch len(a.positional) {
	case 1:
		r.stop = b.integer("start", 0)
	case 2, 3:
		r.start, r.stop, r.step = b.integer("start", 0), b.integer("stop", 0), b.integer("step", 1)
	default:
		raise("range expected 1 to 3 arguments, got %d", len(a.positional))
	}
	if r.step == 0 {
		raise("range() arg 3 must not be zero")
	}
	for _, bound := range []int64{r.start, r.stop, r.step} {
		if bound > 1<<40 || bound < -1<<40 {
			raise("range: the number %d is too large", bound)
		}
	}
	if r.length() > maxRange {
		raise("Range too big. The sandbox blocks ranges larger than MAX_RANGE (%d).", maxRange)
	}
	return r
}

// makeDict is dict(mapping or pairs, name=value…).
func makeDict(m *machine, a *args) Value {
	out := NewDict()
	if len(a.positional) > 1 {
		raise("dict expected at most 1 argument, got %d", len(a.positional))
	}
	if len(a.positional) == 1 {
		n, _ := length(a.positional[0])
		m.use(int64(n) * 4 * valueSize)
		m.fill(out, a.positional[0])
	}
	for i, k := range a.named.keys {
		out.set(m, k, a.named.values[i])
	}
	m.use(int64(out.Len()) * 4 * valueSize)
	return out
}

func (m *machine) fill(out *Dict, v Value) {
	if d, ok := v.(*Dict); ok {
		m.spend(int64(d.Len()) * stepWork)
		for i, k := range d.keys {
			out.set(m, k, d.values[i])
		}
		return
	}
	for _, item := range m.mustIterate(v) {
		m.spend(stepWork)
		pair := m.mustIterate(item)
		if len(pair) != 2 {
			raise("a dict is made of pairs, got one of %d", len(pair))
		}
		out.set(m, pair[0], pair[1])
	}
}

func makeNamespace(m *machine, a *args) Value {
	attrs := makeDict(m, a).(*Dict)
	ns := &namespace{NewDict()}
	for i, k := range attrs.keys {
		ns.set(mustString("namespace", k), attrs.values[i])
	}
	return ns
}

func makeCycler(_ *machine, a *args) Value {
	if len(a.positional) == 0 {
		raise("no items for cycling given")
	}
	return &cycler{items: a.positional}
}

func makeJoiner(_ *machine, a *args) Value {
	return &joiner{separator: a.bind("joiner", "sep").text("sep", ", ")}
}
