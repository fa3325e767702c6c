package api_test

import (
	"cmp"
	"errors"
	"fmt"
	"go/ast"
	"go/parser"
	"go/token"
	"net/http"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/tandem-moe/tandem/api"
	"github.com/tandem-moe/tandem/internal/docs"
)

// TestPageAPI holds docs/api.md to the code: which paths, fields and errors there
// are is read from the source, and what a field takes is tried.
func TestPageAPI(t *testing.T) {
	source := readSource(t)
	hold := func(section, want string) { docs.Hold(t, "..", "api.md", section, want) }
	hold("paths", pathsTable(t, source))
	hold("errors", errorsTable(source))
	tables := source.fieldTables()
	for _, r := range requestPages {
		var rows [][]string
		for _, table := range r.tables {
			require.Contains(t, tables, table, "requestPages names a table of fields that is not there")
			for _, name := range tables[table] {
				rows = append(rows, r.try(name).row(name))
			}
		}
		hold(r.section, docs.Table([]string{"field", "takes", "remarks"}, rows))
	}
	requireAllTables(t, tables)
}

// requestPage is a kind of request, and what is needed to try a field of it.
type requestPage struct {
	section string
	// tables are the functions whose fields the request has.
	tables []string
	parse  func([]byte) error
	// base are the fields without which others are refused, as JSON.
	base map[string]string
	// within is a body with %s for an object whose fields are tried; empty: the
	// body itself.
	within string
}

var requestPages = []requestPage{
	{section: "completions", tables: []string{"common", "Completion"}, parse: failing((*api.Parser).Completion),
		base: map[string]string{"prompt": `"x"`, "stream": "true"}},
	{section: "chat", tables: []string{"Conversation.fields", "Chat"}, parse: failing((*api.Parser).Chat),
		base: map[string]string{"messages": `[{"role": "user", "content": "x"}]`, "stream": "true",
			"logprobs": "true"}},
	{section: "messages", tables: []string{"message.fields"}, parse: failing((*api.Parser).Chat),
		within: `{"messages": [%s]}`,
		base:   map[string]string{"role": `"assistant"`, "content": `"x"`}},
	{section: "tokenize", tables: []string{"Tokenize"}, parse: failing((*api.Parser).Tokenize),
		base: map[string]string{"prompt": `"x"`}},
	{section: "detokenize", tables: []string{"Detokenize"}, parse: failing((*api.Parser).Detokenize),
		base: map[string]string{"tokens": "[1]"}},
}

// elsewhere are tables of fields that the page describes in words.
var elsewhere = []string{"streamOptions", "partRule"}

// requireAllTables fails where the code has fields that no page lists.
func requireAllTables(t *testing.T, tables map[string][]string) {
	t.Helper()
	known := slices.Clone(elsewhere)
	for _, r := range requestPages {
		known = append(known, r.tables...)
	}
	for table := range tables {
		if !slices.Contains(known, table) {
			t.Errorf("%s has fields that docs/api.md does not list: name it in requestPages", table)
		}
	}
}

func failing[T any](parse func(*api.Parser, []byte) (T, error)) func([]byte) error {
	return func(body []byte) error {
		_, err := parse(new(api.Parser), body)
		return err
	}
}

// probes are values of all kinds, some of which every rule refuses that refuses
// any.
var probes = []string{
	"true", "false", "0", "1", "-1", "0.5", "1e300", "-1e300", "9223372036854775807", "-9223372036854775808",
	`""`, `"x"`, `"none"`, `"auto"`, `"low"`, `"medium"`, "[]", `["x"]`, `["text"]`, "[1]", "{}", `{"type": "text"}`,
	`{"a": 1}`,
}

// tried is what came of a field's probes.
type tried struct {
	accepted, refused []string
	kind, bounds      string
	reason            string
	most              int
}

// try sends a field with each probe.
func (r *requestPage) try(name string) *tried {
	f := new(tried)
	for _, value := range probes {
		f.note(name, value, r.send(name, value))
	}
	if !strings.Contains(f.kind, "list") {
		return f
	}
	if strings.HasPrefix(f.kind, "list") && slices.Contains(f.accepted, `"x"`) {
		f.kind = "string or " + f.kind
	}
	for _, item := range []string{`"x"`, "1", `[1]`, `{"role": "user", "content": "x"}`,
		`{"type": "function", "function": {}}`} {
		const many = 70_000
		err := r.send(name, "["+strings.Repeat(item+",", many)+item+"]")
		if m := tooMany.FindStringSubmatch(fmt.Sprint(err)); m != nil {
			f.most, _ = strconv.Atoi(m[1])
		}
	}
	return f
}

func (r *requestPage) send(name, value string) error {
	members := []string{fmt.Sprintf("%q: %s", name, value)}
	for other, value := range r.base {
		if other != name {
			members = append(members, fmt.Sprintf("%q: %s", other, value))
		}
	}
	body := "{" + strings.Join(members, ", ") + "}"
	if r.within != "" {
		body = fmt.Sprintf(r.within, body)
	}
	return r.parse([]byte(body))
}

var (
	tooMany    = regexp.MustCompile(`has more than (\d+) entries`)
	wrongKind  = regexp.MustCompile(`must be (?:an? )?(.*), and is an? \w+$`)
	outOfRange = regexp.MustCompile(`must lie between (.*) and (.*), and is`)
	oneOf      = regexp.MustCompile(`must be one of (.*), and is`)
	wasSent    = regexp.MustCompile(`; .* was sent$`)
)

func (f *tried) note(name, value string, err error) {
	var e *api.Error
	if !errors.As(err, &e) {
		f.accepted = append(f.accepted, value)
		return
	}
	switch {
	case e.Code == "unsupported_parameter":
		f.refused = append(f.refused, value)
		_, reason, _ := strings.Cut(e.Message, name+": ")
		f.reason = cmp.Or(f.reason, wasSent.ReplaceAllString(reason, ""))
	case e.Code == "invalid_type":
		if m := wrongKind.FindStringSubmatch(e.Message); m != nil {
			f.kind = cmp.Or(f.kind, m[1])
		}
	case oneOf.MatchString(e.Message):
		f.bounds = "one of " + oneOf.FindStringSubmatch(e.Message)[1]
	case e.Code == "out_of_range":
		if m := outOfRange.FindStringSubmatch(e.Message); m != nil {
			f.bounds = boundsOf(m[1], m[2])
		}
	}
}

// boundsOf says bounds for people.
func boundsOf(low, high string) string {
	switch {
	case low == "5e-324":
		return "more than 0"
	case high == "2147483647":
		return low + " or more"
	default:
		return low + " to " + high
	}
}

// row is a line of the page.
func (f *tried) row(name string) []string {
	name = "`" + name + "`"
	if len(f.accepted) == len(probes) {
		return []string{name, "anything", "changes no answer"}
	}
	if len(f.refused) > 0 && f.kind == "" && len(f.accepted) == 0 {
		return []string{name, "nothing", f.reason}
	}
	if len(f.refused) > 0 && len(f.accepted) > 0 {
		return []string{name, "only `" + strings.Join(f.accepted, "`, `") + "`", f.reason}
	}
	var remarks []string
	if f.bounds != "" {
		remarks = append(remarks, f.bounds)
	}
	if f.most > 0 {
		remarks = append(remarks, fmt.Sprintf("at most %d", f.most))
	}
	if f.reason != "" {
		remarks = append(remarks, f.reason)
	}
	return []string{name, f.kind, strings.Join(remarks, "; ")}
}

// source is the package's.
type source struct {
	files     []*ast.File
	constants map[string]string // those of texts
}

func readSource(t *testing.T) *source {
	t.Helper()
	names, err := filepath.Glob("*.go")
	require.NoError(t, err)
	s := &source{constants: map[string]string{}}
	for _, name := range names {
		if strings.HasSuffix(name, "_test.go") {
			continue
		}
		file, err := parser.ParseFile(token.NewFileSet(), name, nil, 0)
		require.NoError(t, err)
		s.files = append(s.files, file)
		s.noteConstants(file)
	}
	return s
}

func (s *source) noteConstants(file *ast.File) {
	for _, d := range file.Decls {
		group, ok := d.(*ast.GenDecl)
		if !ok || group.Tok != token.CONST {
			continue
		}
		for _, spec := range group.Specs {
			v := spec.(*ast.ValueSpec)
			for i, value := range v.Values {
				s.constants[v.Names[i].Name] = literal(value)
			}
		}
	}
}

// text is a string's value, or a constant's.
func (s *source) text(e ast.Expr) string {
	if id, ok := e.(*ast.Ident); ok {
		return s.constants[id.Name]
	}
	return literal(e)
}

// each calls f with each node, and the function that it is in.
func (s *source) each(f func(in string, n ast.Node)) {
	for _, file := range s.files {
		for _, d := range file.Decls {
			if function, ok := d.(*ast.FuncDecl); ok {
				ast.Inspect(function, func(n ast.Node) bool {
					f(functionName(function), n)
					return true
				})
			}
		}
	}
}

// functionName is "common", or "Type.fields" where several types have one.
func functionName(f *ast.FuncDecl) string {
	if f.Recv == nil || f.Name.Name != "fields" {
		return f.Name.Name
	}
	kind := f.Recv.List[0].Type
	if pointer, ok := kind.(*ast.StarExpr); ok {
		kind = pointer.X
	}
	return kind.(*ast.Ident).Name + "." + f.Name.Name
}

// fieldTables are the names in each function's tables of fields, as they stand
// there.
func (s *source) fieldTables() map[string][]string {
	tables := map[string][]string{}
	s.each(func(in string, n ast.Node) {
		c, ok := n.(*ast.CompositeLit)
		if !ok || !isIdent(c.Type, "fields") {
			return
		}
		for _, e := range c.Elts {
			tables[in] = append(tables[in], literal(e.(*ast.KeyValueExpr).Key))
		}
	})
	return tables
}

func isIdent(e ast.Expr, name string) bool {
	id, ok := e.(*ast.Ident)
	return ok && id.Name == name
}

// literal is a string's value; a text that is put together has its first part.
func literal(e ast.Expr) string {
	switch e := e.(type) {
	case *ast.BasicLit:
		text, _ := strconv.Unquote(e.Value)
		return text
	case *ast.BinaryExpr:
		return literal(e.X) + "…"
	default:
		return ""
	}
}

// whatFor says what paths are for.
var whatFor = map[string]string{
	"/v1/completions":      "continue prompts",
	"/v1/chat/completions": "continue a conversation, which the model's template renders",
	"/tokenize":            "token ids of a prompt or of a conversation, as vLLM has it",
	"/detokenize":          "the text of token ids",
	"/v1/models":           "the names under which the model is served, and `max_model_len`",
	"/v1/models/{id...}":   "one of them",
	"/health":              "200 while requests are served, with what fails all the same; else 503 with the reason",
	"/version":             "Tandem's version",
	"/metrics":             "see [metrics.md](metrics.md)",
	"/{$}":                 "what is here",
}

// pathsTable lists the routes.
func pathsTable(t *testing.T, s *source) string {
	var rows [][]string
	s.each(func(_ string, n ast.Node) {
		call, ok := n.(*ast.CallExpr)
		if !ok || len(call.Args) != 3 {
			return
		}
		if f, ok := call.Fun.(*ast.SelectorExpr); !ok || f.Sel.Name != "handle" {
			return
		}
		path, key := literal(call.Args[1]), "no"
		require.Contains(t, whatFor, path, "say in whatFor what the path is for")
		ast.Inspect(call.Args[2], func(n ast.Node) bool {
			if f, ok := n.(*ast.SelectorExpr); ok && (f.Sel.Name == "guarded" || f.Sel.Name == "authorised") {
				key = "yes"
			}
			return true
		})
		rows = append(rows, []string{"`" + literal(call.Args[0]) + " " + strings.TrimSuffix(path, "{$}") + "`", key,
			whatFor[path]})
	})
	return docs.Table([]string{"path", "needs a key", "what for"}, rows)
}

// errorsTable lists status, type and code of the errors that are written out in
// the source.
func errorsTable(s *source) string {
	var rows [][]string
	add := func(status int, kind, code string) {
		row := []string{strconv.Itoa(status), "`" + kind + "`", "`" + code + "`"}
		if code != "" && !slices.ContainsFunc(rows, func(r []string) bool { return slices.Equal(r, row) }) {
			rows = append(rows, row)
		}
	}
	s.each(func(_ string, n ast.Node) {
		switch n := n.(type) {
		case *ast.CompositeLit:
			if isIdent(n.Type, "Error") {
				add(statusOf(field(n, "Status")), s.text(field(n, "Type")), s.text(field(n, "Code")))
			}
		case *ast.AssignStmt: // what invalid made, given a code
			if f, ok := n.Lhs[0].(*ast.SelectorExpr); ok && f.Sel.Name == "Code" {
				add(http.StatusBadRequest, "invalid_request_error", s.text(n.Rhs[0]))
			}
		}
	})
	slices.SortFunc(rows, slices.Compare)
	return docs.Table([]string{"status", "type", "code"}, rows)
}

// field is a field's value in a literal.
func field(c *ast.CompositeLit, name string) ast.Expr {
	for _, e := range c.Elts {
		if kv, ok := e.(*ast.KeyValueExpr); ok && isIdent(kv.Key, name) {
			return kv.Value
		}
	}
	return nil
}

// statusOf is the number of a status: http.StatusNotFound, or the one of a client
// that has gone.
func statusOf(e ast.Expr) int {
	f, ok := e.(*ast.SelectorExpr)
	if !ok {
		return 499
	}
	for status := 100; status < 600; status++ {
		if name := strings.NewReplacer(" ", "", "-", "").Replace(http.StatusText(status)); name != "" &&
			"Status"+name == f.Sel.Name {
			return status
		}
	}
	panic("no status " + f.Sel.Name)
}
