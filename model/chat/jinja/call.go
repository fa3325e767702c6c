package jinja

import (
	"fmt"
	"slices"
)

// args are a call's arguments.
type args struct {
	positional []Value
	named      *Dict
}

func (m *machine) arguments(a arguments, s *scope) *args {
	out := &args{named: NewDict()}
	for _, e := range a.positional {
		out.positional = append(out.positional, m.eval(e, s))
	}
	if a.list != nil {
		out.positional = append(out.positional, m.mustIterate(m.eval(a.list, s))...)
		m.use(int64(len(out.positional)) * valueSize)
	}
	for i, n := range a.names {
		out.named.Set(n, m.eval(a.named[i], s))
	}
	if a.keword != nil {
		m.spread(out.named, m.eval(a.keword, s))
	}
	return out
}

// spread adds the arguments of a dict.
func (m *machine) spread(named *Dict, v Value) {
	d, ok := v.(*Dict)
	if !ok {
		raise("argument after ** must be a mapping, not %s", typeName(v))
	}
	m.use(int64(d.Len()) * 2 * valueSize)
	for i, k := range d.keys {
		name, ok := asString(k)
		if _, twice := named.Get(name); !ok || twice {
			raise("got multiple values for keyword argument %s", m.repr(k))
		}
		named.Set(name, d.values[i])
	}
}

// bind gives the arguments the names of parameters. What is not given is left
// out.
func (a *args) bind(callee string, params ...string) bound {
	if len(a.positional) > len(params) {
		raise("%s takes at most %d arguments, got %d", callee, len(params), len(a.positional))
	}
	b := bound{callee, map[string]Value{}}
	for i, v := range a.positional {
		b.values[params[i]] = v
	}
	for i, k := range a.named.keys {
		name := k.(string)
		if !slices.Contains(params, name) {
			raise("%s got an unexpected keyword argument '%s'", callee, name)
		}
		if _, twice := b.values[name]; twice {
			raise("%s got multiple values for argument '%s'", callee, name)
		}
		b.values[name] = a.named.values[i]
	}
	return b
}

// bindPositional is bind for a callee that takes no named arguments.
func (a *args) bindPositional(callee string, params ...string) bound {
	if a.named.Len() > 0 {
		raise("%s() takes no keyword arguments", callee)
	}
	return a.bind(callee, params...)
}

// bound are arguments by their parameters' names.
type bound struct {
	callee string
	values map[string]Value
}

// value returns an argument, or its default.
func (b bound) value(name string, otherwise Value) Value {
	if v, ok := b.values[name]; ok {
		return v
	}
	return otherwise
}

// need returns an argument that must be given.
func (b bound) need(name string) Value {
	v, ok := b.values[name]
	if !ok {
		raise("%s is missing the argument '%s'", b.callee, name)
	}
	return v
}

// has reports whether an argument is given and not None.
func (b bound) has(name string) bool { return b.values[name] != nil }

func (b bound) text(name, otherwise string) string {
	v := b.value(name, otherwise)
	s, ok := asString(v)
	if !ok {
		raise("%s: '%s' must be str, not %s", b.callee, name, typeName(v))
	}
	return s
}

func (b bound) integer(name string, otherwise int64) int64 {
	v := b.value(name, otherwise)
	i, ok := asInt(v)
	if !ok {
		raise("%s: '%s' must be int, not %s", b.callee, name, typeName(v))
	}
	return i
}

// count returns an argument that must be a size. Larger ones than any text are
// all the same.
func (b bound) count(name string, otherwise int64) int {
	return int(min(max(b.integer(name, otherwise), -1<<31), 1<<31-1))
}

func (b bound) flag(name string, otherwise bool) bool { return truth(b.value(name, otherwise)) }

// macro is a macro with the scope in which it stands.
type macro struct {
	code  *macroCode
	scope *scope
}

// call calls what can be called.
func (m *machine) call(callee Value, a *args, line int) Value {
	defer atLine(line)
	defer m.enter()()
	switch c := callee.(type) {
	case *macro:
		return c.call(m, a)
	case *function:
		return c.call(m, a)
	case *loop:
		if c.again == nil {
			raise("the loop must have the 'recursive' marker to be called recursively")
		}
		return c.again(m, a.bind("loop", "iterable").need("iterable"), c.depth+1)
	case *joiner:
		return c.next()
	case *Undefined:
		c.raise()
	}
	raise("'%s' object is not callable", typeName(callee))
	return nil
}

// atLine, deferred, tells an error where it is.
func atLine(line int) {
	if r := recover(); r != nil {
		if e, ok := r.(*Error); ok && e.Line == 0 {
			e.Line = line
		}
		panic(r)
	}
}

func (j *joiner) next() Value {
	if !j.used {
		j.used = true
		return ""
	}
	return j.separator
}

func (c *macro) call(m *machine, a *args) Value {
	s := c.scope.inner()
	m.spend(int64(len(c.code.params)) * int64(1+a.named.Len()) * itemWork)
	c.bind(m, s, a)
	for i, e := range c.code.defaults {
		p := c.code.params[len(c.code.params)-len(c.code.defaults)+i]
		if _, given := s.vars[p]; !given {
			s.set(p, m.eval(e, s))
		}
	}
	for _, p := range c.code.params {
		if _, given := s.vars[p]; !given {
			s.set(p, &Undefined{fmt.Sprintf("parameter '%s' was not provided", p)})
		}
	}
	return m.capture(func() { c.code.body.exec(m, s) })
}

// bind sets the arguments in the macro's scope.
func (c *macro) bind(m *machine, s *scope, a *args) {
	code := c.code
	for i, v := range a.positional[:min(len(a.positional), len(code.params))] {
		s.set(code.params[i], v)
	}
	rest := a.positional[min(len(a.positional), len(code.params)):]
	if len(rest) > 0 && !code.varargs {
		raise("macro '%s' takes not more than %d argument(s)", code.name, len(code.params))
	}
	if code.varargs {
		s.set("varargs", tuple(rest))
	}
	c.bindNamed(s, a.named)
}

func (c *macro) bindNamed(s *scope, named *Dict) {
	code := c.code
	others := NewDict()
	if code.caller {
		s.set("caller", &Undefined{"No caller defined"})
	}
	for i, k := range named.keys {
		name, v := k.(string), named.values[i]
		_, given := s.vars[name]
		switch {
		case slices.Contains(code.params, name):
			if given {
				raise("macro '%s' got two values for the argument '%s'", code.name, name)
			}
			s.set(name, v)
		case name == "caller" && code.caller:
			s.set(name, v)
		case !code.kwargs:
			raise("macro '%s' takes no keyword argument '%s'", code.name, name)
		default:
			others.Set(name, v)
		}
	}
	if code.kwargs {
		s.set("kwargs", others)
	}
}
