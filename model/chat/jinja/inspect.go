package jinja

import "slices"

// maxNames bounds the variables that LoopsOver follows.
const maxNames = 64

// LoopsOver reports whether the template has a loop over a field of the items of a
// list, as in {% for part in message.content %}: message is the variable of a loop
// over the list, or over what the template sets to it, a slice of it or what a
// filter makes of it.
func (t *Template) LoopsOver(list, field string) bool {
	lists := aliases(t.body, list)
	var items []string
	eachLoop(t.body, func(f forStmt) {
		if len(items) < maxNames && slices.ContainsFunc(lists,
			func(name string) bool { return isAccess(f.iterable, name, "") }) {
			items = append(items, f.target.name)
		}
	})
	found := false
	eachLoop(t.body, func(f forStmt) {
		found = found || slices.ContainsFunc(items, func(name string) bool { return isAccess(f.iterable, name, field) })
	})
	return found
}

// HasTest reports whether the template has a test of this name, as in
// {% if content is string %}.
func (t *Template) HasTest(test string) bool {
	found := false
	walk(t.body, func(n any) {
		if e, ok := n.(testExpr); ok && e.name == test {
			found = true
		}
	})
	return found
}

// aliases are the names of a list: its own, and those that are set to it.
func aliases(body block, list string) []string {
	names := []string{list}
	for i := 0; i < min(len(names), maxNames); i++ {
		walk(body, func(n any) {
			st, ok := n.(setStmt)
			if ok && st.target.name != "" && st.target.attr == "" && isAccess(st.value, names[i], "") &&
				!slices.Contains(names, st.target.name) {
				names = append(names, st.target.name)
			}
		})
	}
	return names
}

func eachLoop(body block, yield func(forStmt)) {
	walk(body, func(n any) {
		if f, ok := n.(forStmt); ok {
			yield(f)
		}
	})
}

// isAccess reports whether an expression is a variable, or a field of it where one
// is named; or a slice of that, or what a filter or test makes of it.
func isAccess(e expression, variable, field string) bool {
	switch e := e.(type) {
	case filterExpr:
		return e.value != nil && isAccess(e.value, variable, field)
	case testExpr:
		return isAccess(e.value, variable, field)
	case name:
		return field == "" && e.name == variable
	case attribute:
		return field != "" && e.name == field && isAccess(e.object, variable, "")
	case subscript:
		if _, ok := e.key.(sliceExpr); ok {
			return isAccess(e.object, variable, field)
		}
		key, ok := e.key.(constant)
		return field != "" && ok && key.value == field && isAccess(e.object, variable, "")
	}
	return false
}

// walk visits a statement or expression and all below it.
func walk(n any, visit func(n any)) {
	visit(n)
	for _, child := range children(n) {
		if child != nil {
			walk(child, visit)
		}
	}
}

// children are what a statement or expression is made of.
func children(n any) []any {
	switch n := n.(type) {
	case block:
		return several(n)
	case output:
		return []any{n.value}
	case ifStmt:
		return slices.Concat(several(n.tests), several(n.bodies), []any{n.otherwise})
	case forStmt:
		return []any{n.iterable, n.test, n.body, n.otherwise}
	case setStmt:
		return []any{n.value}
	case setBlock:
		return []any{n.filter, n.body}
	case macroStmt:
		return n.macro.children()
	case callStmt:
		return append(n.caller.children(), n.call)
	case filterStmt:
		return []any{n.filter, n.body}
	case withStmt:
		return append(several(n.values), n.body)
	case scopeStmt:
		return []any{n.body}
	}
	return parts(n)
}

// parts are what an expression is made of.
func parts(n any) []any {
	switch n := n.(type) {
	case listExpr:
		return several(n.items)
	case tupleExpr:
		return several(n.items)
	case dictExpr:
		return append(several(n.keys), several(n.values)...)
	case attribute:
		return []any{n.object}
	case subscript:
		return []any{n.object, n.key}
	case sliceExpr:
		return []any{n.start, n.stop, n.step}
	case *call:
		return append(n.args.parts(), n.callee)
	case filterExpr:
		return append(n.args.parts(), n.value)
	case testExpr:
		return append(n.args.parts(), n.value)
	case conditional:
		return []any{n.test, n.then, n.otherwise}
	case notExpr:
		return []any{n.operand}
	case logical:
		return []any{n.left, n.right}
	case unary:
		return []any{n.operand}
	case binary:
		return []any{n.left, n.right}
	case concat:
		return several(n.parts)
	case comparison:
		out := []any{n.first}
		for _, o := range n.rest {
			out = append(out, o.value)
		}
		return out
	}
	return nil
}

func (c *macroCode) children() []any {
	if c == nil {
		return nil
	}
	return append(several(c.defaults), c.body)
}

func (a arguments) parts() []any {
	return slices.Concat(several(a.positional), several(a.named), []any{a.list, a.keword})
}

func several[T any](list []T) []any {
	out := make([]any, len(list))
	for i, v := range list {
		out[i] = v
	}
	return out
}
