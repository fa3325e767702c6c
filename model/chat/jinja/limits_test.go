package jinja

import (
	"errors"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
)

// TestLimits: a template that loops, grows or nests without end is refused.
func TestLimits(t *testing.T) {
	limits := Limits{Steps: 100_000, Bytes: 1 << 20, Depth: 500}
	for source, want := range map[string]string{
		"{% for i in range(100000) %}{% for j in range(100000) %}{% endfor %}{% endfor %}":                                                                   "bytes",
		"{% for i in range(10000) %}{% if i and i and i and i and i and i and i and i and i and i %}{% endif %}{% endfor %}":                                 "steps",
		"{% set ns = namespace(x='ab') %}{% for i in range(99) %}{% set ns.x = ns.x ~ ns.x %}{% endfor %}":                                                   "bytes",
		"{% set ns = namespace(x=[1]) %}{% for i in range(99) %}{% set ns.x = ns.x + ns.x %}{% endfor %}":                                                    "bytes",
		"{% set ns = namespace(x=1) %}{% for i in range(60) %}{% set ns.x = [ns.x, ns.x] %}{% endfor %}{{ ns.x }}":                                           "more than",
		"{% set ns = namespace(x=1) %}{% for i in range(60) %}{% set ns.x = [ns.x, ns.x] %}{% endfor %}{{ ns.x | tojson }}":                                  "more than",
		"{% set ns = namespace(x=1, y=1) %}{% for i in range(60) %}{% set ns.x = [ns.x, ns.x] %}{% set ns.y = [ns.y, ns.y] %}{% endfor %}{{ ns.x == ns.y }}": "more than",
		"{% set ns = namespace(x=1) %}{% for i in range(60) %}{% set ns.x = (ns.x, ns.x) %}{% endfor %}{{ {ns.x: 1} }}":                                      "more than",
		"{{ 'x' * 10000000000 }}":                                                               "bytes",
		"{{ [1] * 10000000000 }}":                                                               "bytes",
		"{{ 'x'.center(10000000000) }}":                                                         "bytes",
		"{{ ('a' * 1000).replace('a', 'b' * 100000) }}":                                         "bytes",
		"{{ '%99999999s' % 1 }}":                                                                "width",
		"{{ '{:99999999}'.format(1) }}":                                                         "width",
		"{{ 10 ** 10000 }}":                                                                     "bits",
		"{% macro f() %}{{ f() }}{% endmacro %}{{ f() }}":                                       "deeper",
		"{% for x in [[1]] recursive %}{{ loop([[1]]) }}{% endfor %}":                           "deeper",
		"{{ 1" + strings.Repeat(" + 1", 1000) + " }}":                                           "deeper",
		"{{ " + strings.Repeat("(", 10_000) + "1" + strings.Repeat(")", 10_000) + " }}":         "deeper",
		"{{ " + strings.Repeat("[", 10_000) + "1" + strings.Repeat("]", 10_000) + " }}":         "deeper",
		strings.Repeat("{% if 1 %}", 10_000):                                                    "deeper",
		"{{ " + strings.Repeat("not ", 10_000) + "1 }}":                                         "deeper",
		"{{ " + strings.Repeat("-", 10_000) + "1 }}":                                            "deeper",
		"{% set " + strings.Repeat("(", 10_000) + "x" + strings.Repeat(")", 10_000) + " = 1 %}": "deeper",
		"{{ 1 if 1 else " + strings.Repeat("1 if 1 else ", 10_000) + "1 }}":                     "deeper",
	} {
		text, err := func() (string, error) {
			tmpl, err := Parse(source)
			if err != nil {
				return "", err
			}
			return tmpl.Render(t.Context(), NewDict(), Options{Limits: limits})
		}()
		require.ErrorContains(t, err, want, "%.80s gave %.80q", source, text)
	}
}

func TestErrorsNameTheirLine(t *testing.T) {
	_, err := render("a\nb\n{{ nope() }}", NewDict())
	var e *Error
	require.ErrorAs(t, err, &e)
	require.Equal(t, 3, e.Line)
	_, err = render("a\n{% nope %}", NewDict())
	var s *SyntaxError
	require.ErrorAs(t, err, &s)
	require.Equal(t, 2, s.Line)
	cause := errors.New("cause")
	tmpl, err := Parse("{{ f() }}")
	require.NoError(t, err)
	_, err = tmpl.Render(t.Context(), NewDict(), Options{Limits: DefaultLimits,
		Functions: map[string]func([]Value) (Value, error){
			"f": func([]Value) (Value, error) { return nil, cause },
		}})
	require.ErrorIs(t, err, cause)
}

func TestFromJSON(t *testing.T) {
	v, err := FromJSON([]byte(` {"b": [1, -2.5e1, 12345678901234567890123, "x", null, true], "a": {}, "b2": 1e999} `))
	require.NoError(t, err)
	m := &machine{ctx: t.Context(), limits: DefaultLimits}
	require.Equal(t, "{'b': [1, -25.0, 12345678901234567890123, 'x', None, True], 'a': {}, 'b2': inf}", m.repr(v))
	for text, want := range map[string]string{
		`{"a": 1`:                     "unexpected EOF",
		`1 2`:                         "more than one value",
		``:                            "unexpected EOF",
		strings.Repeat("9", 2000):     "2000 digits",
		strings.Repeat("[", 1000):     "deeper",
		`{"a" 1}`:                     "invalid character",
		strings.Repeat(`{"a":`, 1000): "deeper",
	} {
		_, err := FromJSON([]byte(text))
		require.ErrorContains(t, err, want, "%.40s", text)
	}
}

// FuzzRender: whatever a template says, it ends, within its limits, and without
// a panic.
func FuzzRender(f *testing.F) {
	fixture := readFixture(f)
	for _, c := range fixture.Cases {
		f.Add(c.Template)
		f.Add(c.Template[:len(c.Template)/2])
	}
	for _, source := range hostile {
		f.Add(source)
	}
	vars := variables(f, fixture.Vars)
	limits := Limits{Steps: 20_000, Bytes: 1 << 20, Depth: 200}
	f.Fuzz(func(t *testing.T, source string) {
		tmpl, err := Parse(source)
		if err != nil {
			var e *SyntaxError
			require.ErrorAs(t, err, &e)
			return
		}
		text, err := tmpl.Render(t.Context(), vars, Options{Functions: testFunctions, Limits: limits})
		if err != nil {
			var e *Error
			require.ErrorAs(t, err, &e)
		}
		require.LessOrEqual(t, int64(len(text)), limits.Bytes)
		again, errAgain := tmpl.Render(t.Context(), vars, Options{Functions: testFunctions, Limits: limits})
		require.Equal(t, text, again)
		require.Equal(t, err == nil, errAgain == nil)
	})
}
