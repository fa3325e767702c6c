package jinja

import (
	"context"
	"fmt"
	"strings"
)

// Error is what a template raises, or what it does that Python refuses.
type Error struct {
	// Line is where, 0 where that is not known.
	Line    int
	Message string
	// Cause is what a function of Options returned, nil for other errors.
	Cause error
}

func (e *Error) Unwrap() error { return e.Cause }

func (e *Error) Error() string {
	if e.Line == 0 {
		return e.Message
	}
	return fmt.Sprintf("line %d: %s", e.Line, e.Message)
}

// longestMessage bounds an error's text, in bytes: it may repeat a client's.
const longestMessage = 4 << 10

// raise ends the rendering. Render recovers it, and nothing else.
func raise(format string, args ...any) {
	panic(&Error{Message: cutMessage(fmt.Sprintf(format, args...))})
}

func cutMessage(s string) string {
	if len(s) <= longestMessage {
		return s
	}
	return strings.ToValidUTF8(s[:longestMessage], "") + "…"
}

func (u *Undefined) raise() { raise("%s", u.what) }

// Limits bound a rendering.
type Limits struct {
	// Steps is how much work is done. An expression or statement that is
	// evaluated is one step, an iteration of a loop two; what looks at text or at
	// a list takes one more for every 64 bytes or 8 items, whatever it makes of
	// them. So a step takes well under a microsecond, and all of them bound the
	// time.
	Steps int64
	// Bytes is how much text and how many values are made, in all.
	Bytes int64
	// Depth is how deep calls and values nest.
	Depth int
}

// valueSize is what a value in a list is counted as, in bytes.
const valueSize = 16

// Work is counted in parts of a step.
const (
	stepWork = 64 // of a step
	byteWork = 1  // of a byte that is looked at
	itemWork = 8  // of an item of a list or dict that is looked at
	// checkWork is done between two looks at the context: some 100 µs.
	checkWork = 4096 * stepWork
)

// machine is one rendering.
type machine struct {
	ctx    context.Context
	limits Limits
	work   int64
	check  int64 // the work at which the context is looked at next
	bytes  int64
	depth  int
	// globals are below all scopes.
	globals map[string]Value
	out     *strings.Builder
}

// enter counts a step and a level; the function that it returns leaves.
func (m *machine) enter() func() {
	m.spend(stepWork)
	if m.depth++; m.depth > m.limits.Depth {
		raise("the template nests deeper than %d", m.limits.Depth)
	}
	return m.leave
}

func (m *machine) leave() { m.depth-- }

// spend counts work that is about to be done. It ends the rendering where that is
// more than the limit, and where nobody waits for it any more.
func (m *machine) spend(work int64) {
	m.work += work
	if m.work >= m.check {
		m.look()
	}
}

func (m *machine) look() {
	if m.work/stepWork > m.limits.Steps {
		raise("the template takes more than %d steps", m.limits.Steps)
	}
	if m.ctx.Err() != nil {
		cause := context.Cause(m.ctx)
		panic(&Error{Message: "rendering was broken off: " + cause.Error(), Cause: cause})
	}
	m.check = min(m.work+checkWork, (m.limits.Steps+1)*stepWork)
}

// scan counts the work of looking at bytes of text.
func (m *machine) scan(bytes int) { m.spend(int64(bytes) * byteWork) }

// use counts bytes that are about to be made, and the work of that.
func (m *machine) use(bytes int64) {
	m.bytes += bytes
	m.hold(0)
	m.spend(bytes / 4)
}

// hold raises where the bytes that have been counted, and some that will be, are
// too many.
func (m *machine) hold(bytes int) {
	if m.bytes+int64(bytes) > m.limits.Bytes {
		raise("the template makes more than %d bytes of text and values", m.limits.Bytes)
	}
}

// useTimes counts n times bytes.
func (m *machine) useTimes(n, bytes int64) {
	if bytes > 0 && n > m.limits.Bytes/bytes {
		raise("the template makes more than %d bytes of text and values", m.limits.Bytes)
	}
	m.use(n * bytes)
}

// eval evaluates an expression.
func (m *machine) eval(e expression, s *scope) Value {
	m.enter()
	v := e.eval(m, s)
	m.depth--
	return v
}

// write puts text out.
func (m *machine) write(text string) {
	m.use(int64(len(text)))
	m.out.WriteString(text)
}

// capture returns what f puts out.
func (m *machine) capture(f func()) string {
	outer := m.out
	m.out = &strings.Builder{}
	f()
	text := m.out.String()
	m.out = outer
	return text
}

// scope holds variables. What is set in a scope is gone with it.
type scope struct {
	outer *scope
	vars  map[string]Value
}

func (s *scope) inner() *scope { return &scope{outer: s} }

func (s *scope) set(name string, v Value) {
	if s.vars == nil {
		s.vars = map[string]Value{}
	}
	s.vars[name] = v
}

func (m *machine) lookup(s *scope, name string) Value {
	for ; s != nil; s = s.outer {
		m.spend(itemWork)
		if v, ok := s.vars[name]; ok {
			return v
		}
	}
	if v, ok := m.globals[name]; ok {
		return v
	}
	return &Undefined{fmt.Sprintf("'%s' is undefined", name)}
}

// assign sets a target.
func (m *machine) assign(s *scope, t target, v Value) {
	switch {
	case t.parts != nil:
		m.unpack(s, t.parts, v)
	case t.attr == "":
		s.set(t.name, v)
	default:
		ns, ok := m.lookup(s, t.name).(*namespace)
		if !ok {
			raise("cannot assign attribute on non-namespace object")
		}
		ns.set(t.attr, v)
	}
}

func (n *namespace) set(name string, v Value) {
	if strings.HasPrefix(name, "_") {
		raise("a namespace's attribute %q begins with an underscore", name)
	}
	n.attrs.Set(name, v)
}

func (m *machine) unpack(s *scope, targets []target, v Value) {
	items := m.mustIterate(v)
	if len(items) != len(targets) {
		raise("cannot unpack %d values to %d names", len(items), len(targets))
	}
	for i, t := range targets {
		m.assign(s, t, items[i])
	}
}

// Statements.

func (b block) exec(m *machine, s *scope) signal {
	for _, st := range b {
		m.enter()
		sig := st.exec(m, s)
		m.depth--
		if sig != done {
			return sig
		}
	}
	return done
}

func (t text) exec(m *machine, _ *scope) signal {
	m.write(string(t))
	return done
}

func (o output) exec(m *machine, s *scope) signal {
	m.write(m.str(m.eval(o.value, s)))
	return done
}

func (i ifStmt) exec(m *machine, s *scope) signal {
	for n, test := range i.tests {
		if truth(m.eval(test, s)) {
			return i.bodies[n].exec(m, s)
		}
	}
	return i.otherwise.exec(m, s)
}

func (st setStmt) exec(m *machine, s *scope) signal {
	m.assign(s, st.target, m.eval(st.value, s))
	return done
}

func (b setBlock) exec(m *machine, s *scope) signal {
	var v Value = m.capture(func() { b.body.exec(m, s.inner()) })
	if b.filter != nil {
		v = m.filterOutput(b.filter, v, s)
	}
	m.assign(s, b.target, v)
	return done
}

// filterOutput applies a chain of filters, whose innermost value is missing.
func (m *machine) filterOutput(f expression, v Value, s *scope) Value {
	defer m.enter()()
	e := f.(filterExpr)
	if e.value != nil {
		v = m.filterOutput(e.value, v, s)
	}
	return e.apply(m, s, v)
}

func (f filterStmt) exec(m *machine, s *scope) signal {
	text := m.capture(func() { f.body.exec(m, s.inner()) })
	m.write(m.str(m.filterOutput(f.filter, text, s)))
	return done
}

func (w withStmt) exec(m *machine, s *scope) signal {
	inner := s.inner()
	for i, t := range w.targets {
		m.assign(inner, t, m.eval(w.values[i], s))
	}
	return w.body.exec(m, inner)
}

func (b scopeStmt) exec(m *machine, s *scope) signal { return b.body.exec(m, s.inner()) }

func (breakStmt) exec(*machine, *scope) signal    { return broken }
func (continueStmt) exec(*machine, *scope) signal { return continued }

func (st macroStmt) exec(_ *machine, s *scope) signal {
	s.set(st.macro.name, &macro{st.macro, s})
	return done
}

func (c callStmt) exec(m *machine, s *scope) signal {
	callee := m.eval(c.call.callee, s)
	a := m.arguments(c.call.args, s)
	a.named.Set("caller", &macro{c.caller, s})
	m.write(m.str(m.call(callee, a, c.call.line)))
	return done
}
