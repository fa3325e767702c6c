package jinja

import (
	"context"
	"errors"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

// hostile are templates that make much work of little text. Without counting what
// they do beside expressions and statements, each runs for minutes or longer, or
// takes all memory.
var hostile = map[string]string{
	"empty loops":     "{% for i in range(100000) %}{% for j in range(100000) %}{% endfor %}{% endfor %}",
	"filtered loops":  "{% for i in range(100000) %}{% for j in range(100000) if false %}{% endfor %}{% endfor %}",
	"one list":        "{% set l = range(100000) | list %}{% for i in l %}{% for j in l %}{% endfor %}{% endfor %}",
	"length":          "{% set s = 'é' * 50000000 %}{% for i in range(100000) %}{{ s | length }}{% endfor %}",
	"in":              "{% set s = 'a' * 50000000 %}{% for i in range(100000) %}{{ 'b' in s }}{% endfor %}",
	"in a list":       "{% set l = range(100000) | list %}{% for i in l %}{% if -1 in l %}{% endif %}{% endfor %}",
	"equal":           "{% set s = 'a' * 50000000 %}{% set t = 'a' * 50000000 %}{% for i in range(100000) %}{% if s == t %}{% endif %}{% endfor %}",
	"strip":           "{% set s = 'a' * 10000000 %}{% set c = 'b' * 100000 ~ 'a' %}{% for i in range(1000) %}{% set x = s.strip(c) %}{% endfor %}",
	"upper":           "{% set s = 'ß' * 10000000 %}{% for i in range(1000) %}{% set x = s | upper %}{% endfor %}",
	"title":           "{% set s = 'é' * 10000000 %}{% for i in range(1000) %}{% set x = s.title() %}{% endfor %}",
	"isupper":         "{% set s = 'É' * 10000000 %}{% for i in range(1000) %}{{ s.isupper() }}{% endfor %}",
	"wordcount":       "{% set s = 'a ' * 10000000 %}{% for i in range(1000) %}{{ s | wordcount }}{% endfor %}",
	"count":           "{% set s = 'ab' * 10000000 %}{% for i in range(1000) %}{{ s.count('b') }}{% endfor %}",
	"replace nothing": "{% set s = 'ab' * 10000000 %}{% for i in range(1000) %}{% set x = s.replace('c', 'd') %}{% endfor %}",
	"tojson":          "{% set s = '\\n' * 10000000 %}{% for i in range(1000) %}{% set x = s | tojson %}{% endfor %}",
	"indent of JSON":  "{% set x = [[[[[[1]]]]]] | tojson(indent='x' * 100000000) %}",
	"percent":         "{% set x = ('%%' * 10000000) % () %}",
	"format":          "{% for i in range(100) %}{% set x = ('{}' * 100000).format(*range(100000)) %}{% endfor %}",
	"batch":           "{% for b in [1] | batch(1152921504606846977, 0) %}{% endfor %}",
	"sum":             "{% set l = range(100000) | list %}{% for i in l %}{{ l | sum }}{% endfor %}",
	"sort":            "{% set l = range(100000) | list %}{% for i in l %}{% set x = l | sort %}{% endfor %}",
	"map":             "{% set l = range(100000) | list %}{% for i in l %}{% set x = l | map('abs') | list %}{% endfor %}",
	"select":          "{% set l = range(100000) | list %}{% for i in l %}{% set x = l | select('odd') | list %}{% endfor %}",
	"getter":          "{% set p = '0' ~ '.0' * 1000000 %}{% for i in range(100000) %}{{ ['0'] | map(attribute=p) | list }}{% endfor %}",
	"unique":          "{% set l = ['a' * 1000000] * 100000 %}{{ l | unique | list }}",
	"max":             "{% set l = range(100000) | list %}{% for i in l %}{{ l | max }}{% endfor %}",
	"join":            "{% set l = [''] * 100000 %}{% for i in l %}{% set x = l | join %}{% endfor %}",
	"dict of pairs":   "{% set l = [(1, 2)] * 100000 %}{% for i in l %}{% set x = dict(l) %}{% endfor %}",
	"long keys":       "{% set k = 'k' * 50000000 %}{% set d = {k: 1} %}{% for i in range(100000) %}{% if d[k] %}{% endif %}{% endfor %}",
	"int":             "{% set x = ('9' * 100000000) | int %}{% for i in range(1000) %}{% set y = ('9' * 10000000) | int %}{% endfor %}",
	"deep scopes": "{% set x = 1 %}" + strings.Repeat("{% with %}", 150) +
		"{% for i in range(100000) %}{% for j in range(100000) %}{{ x }}{% endfor %}{% endfor %}" + strings.Repeat("{% endwith %}", 150),
	"many parameters": "{% macro f(" + strings.Repeat("p,", 10_000) +
		"q) %}{% endmacro %}{% for i in range(100000) %}{% set x = f() %}{% endfor %}",
	"lazy in lazy":     "{% set ns = namespace(x=[1]) %}{% for i in range(100000) %}{% set ns.x = ns.x | map('abs') %}{% endfor %}{{ ns.x | list }}",
	"slices of a text": "{% set s = 'é' * 50000000 %}{% for i in range(100000) %}{% set x = s[1:] %}{% endfor %}",
	"items of a text":  "{% set s = 'é' * 50000000 %}{% for i in range(100000) %}{% set x = s[-1] %}{% endfor %}",
	"find":             "{% set s = 'a' * 50000000 %}{% for i in range(100000) %}{% set x = s.find('b', 1) %}{% endfor %}",
	"startswith":       "{% set s = 'a' * 50000000 %}{% set t = (s,) * 100000 %}{% for i in range(100000) %}{{ s.startswith(t) }}{% endfor %}",
	"split":            "{% set s = 'a ' * 10000000 %}{% for i in range(1000) %}{% set x = s.split() %}{% endfor %}",
}

// TestHostileTemplatesEnd: whatever a template loops over, what it does is counted
// and ends within a second or so.
func TestHostileTemplatesEnd(t *testing.T) {
	limits := DefaultLimits
	limits.Steps /= 20
	for name, source := range hostile {
		t.Run(name, func(t *testing.T) {
			tmpl, err := Parse(source)
			require.NoError(t, err)
			_, err = tmpl.Render(t.Context(), NewDict(), Options{Limits: limits})
			require.Error(t, err)
			require.Regexp(t, "more than|deeper than", err.Error())
		})
	}
}

// TestRenderingEndsWithItsContext: nobody renders for a client that has left.
func TestRenderingEndsWithItsContext(t *testing.T) {
	limits := Limits{Steps: 1 << 50, Bytes: 1 << 50, Depth: 2000}
	gone := errors.New("the client left")
	for _, name := range []string{"empty loops", "filtered loops", "in a list", "sort", "sum"} {
		tmpl, err := Parse(hostile[name])
		require.NoError(t, err)
		ctx, cancel := context.WithCancelCause(t.Context())
		time.AfterFunc(20*time.Millisecond, func() { cancel(gone) })
		_, err = tmpl.Render(ctx, NewDict(), Options{Limits: limits})
		require.ErrorIs(t, err, gone, name)
	}
}

// TestMessagesAreShort: an error repeats little of what it is about.
func TestMessagesAreShort(t *testing.T) {
	for _, source := range []string{
		"{{ raise_exception('x' * 1000000) }}",
		"{{ ['x' * 1000000].index('y' * 1000000) }}",
		"{{ 1['x' * 1000000].y }}",
	} {
		_, err := render(source, NewDict())
		require.Error(t, err)
		require.Less(t, len(err.Error()), 2*longestMessage)
	}
}

// TestHostileSourcesEnd: to read a template takes time in proportion to it.
func TestHostileSourcesEnd(t *testing.T) {
	for _, part := range []string{
		"{{", "{%", "{#", "{# #}", "{{ a }}", "{{ a", "{% raw %}", "{% raw %}{% endraw %}", "{% if a %}",
		"{% if a %}{% endif %}",
		"{% set a = b %}", "{% set a = messages %}{% for m in a %}{% for c in m.content %}{% endfor %}{% endfor %}",
		"'", "\\", "{{ '\\", "\n", " ", "{{ 9", "{{ a.b", "{{ a|b", "{{ [", "{{ {1:", "{{ a if b else ", "{{ a ~ b",
		"{% macro a() %}",
	} {
		source := strings.Repeat(part, 50_000/len(part))
		for _, s := range []string{source, "{{ " + source, "{{ " + source + " }}"} {
			tmpl, err := Parse(s)
			if err == nil {
				tmpl.LoopsOver("messages", "content")
				tmpl.HasTest("string")
			}
		}
	}
}
