package jinja

// An expression computes a value; a statement writes output.
type (
	expression interface {
		eval(m *machine, s *scope) Value
	}
	statement interface {
		exec(m *machine, s *scope) signal
	}
)

// signal is how a statement ended.
type signal int

const (
	done signal = iota
	broken
	continued
)

// Expressions.
type (
	constant  struct{ value Value }
	name      struct{ name string }
	listExpr  struct{ items []expression }
	tupleExpr struct{ items []expression }
	dictExpr  struct{ keys, values []expression }
	attribute struct {
		object expression
		name   string
	}
	subscript struct{ object, key expression }
	sliceExpr struct{ start, stop, step expression } // nil: left out
	call      struct {
		callee expression
		args   arguments
		line   int
	}
	filterExpr struct {
		value expression // nil: the output of a filter or set block
		name  string
		args  arguments
		line  int
	}
	testExpr struct {
		value  expression
		name   string
		args   arguments
		negate bool
		line   int
	}
	conditional struct{ test, then, otherwise expression } // otherwise may be nil
	notExpr     struct{ operand expression }
	logical     struct {
		and         bool
		left, right expression
	}
	unary struct {
		operator string
		operand  expression
	}
	binary struct {
		operator    string
		left, right expression
	}
	concat     struct{ parts []expression }
	comparison struct {
		first expression
		rest  []operand
	}
	operand struct {
		operator string
		value    expression
	}
)

// arguments are those of a call.
type arguments struct {
	positional   []expression
	names        []string
	named        []expression
	list, keword expression // *list, **keyword; may be nil
}

// Statements.
type (
	block  []statement // one after the other
	text   string
	output struct{ value expression }
	ifStmt struct {
		tests     []expression
		bodies    []block
		otherwise block
	}
	forStmt struct {
		target    target
		iterable  expression
		test      expression // may be nil
		body      block
		otherwise block
		recursive bool
	}
	setStmt struct {
		target target
		value  expression
	}
	setBlock struct {
		target target
		filter expression // may be nil
		body   block
	}
	macroStmt struct {
		macro *macroCode
	}
	callStmt struct {
		call   *call
		caller *macroCode
	}
	filterStmt struct {
		filter expression
		body   block
	}
	withStmt struct {
		targets []target
		values  []expression
		body    block
	}
	scopeStmt    struct{ body block } // a block, or what an assistant generated
	breakStmt    struct{}
	continueStmt struct{}
)

// macroCode is a macro's definition.
type macroCode struct {
	name     string
	params   []string
	defaults []expression // of the last params
	body     block
	// What the body asks for beside its parameters.
	varargs, kwargs, caller bool
}

// target is what is assigned to: a name, an attribute of a namespace, or several
// targets.
type target struct {
	name  string
	attr  string
	parts []target // where not nil
}
