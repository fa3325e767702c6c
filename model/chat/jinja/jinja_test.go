package jinja

import (
	"context"
	"encoding/json"
	"errors"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

type fixture struct {
	Vars  json.RawMessage
	Cases []struct {
		Template string
		Out, Err *string
	}
}

func readFixture(t testing.TB) fixture {
	t.Helper()
	data, err := os.ReadFile(filepath.Join("testdata", "cases.json"))
	require.NoError(t, err)
	var f fixture
	require.NoError(t, json.Unmarshal(data, &f))
	require.NotEmpty(t, f.Cases)
	return f
}

func variables(t testing.TB, raw []byte) *Dict {
	t.Helper()
	v, err := FromJSON(raw)
	require.NoError(t, err)
	return v.(*Dict)
}

// testFunctions are those that transformers gives to a template.
var testFunctions = map[string]func([]Value) (Value, error){
	"raise_exception": func(a []Value) (Value, error) { return nil, errors.New(a[0].(string)) },
	"strftime_now": func(a []Value) (Value, error) {
		return time.Date(2026, 11, 23, 0, 0, 0, 0, time.UTC).Format("2006"), nil
	},
}

func render(source string, vars *Dict) (string, error) {
	t, err := Parse(source)
	if err != nil {
		return "", err
	}
	return t.Render(context.Background(), vars, Options{Functions: testFunctions, Limits: DefaultLimits})
}

// TestJinja2: what Jinja2 renders is rendered, what it refuses is refused. See
// scripts/fixtures/templates.py.
func TestJinja2(t *testing.T) {
	f := readFixture(t)
	vars := variables(t, f.Vars)
	for _, c := range f.Cases {
		got, err := render(c.Template, vars)
		if c.Err != nil {
			require.Error(t, err, "%s\nwant the error %s, got %q", c.Template, *c.Err, got)
			continue
		}
		require.NoError(t, err, c.Template)
		require.Equal(t, *c.Out, got, c.Template)
	}
}
