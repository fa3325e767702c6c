package chat

import (
	"encoding/json"
	"os"
	"path/filepath"
	"testing"
	"testing/fstest"

	"github.com/stretchr/testify/require"
)

// TestContinueFinalMessage: the text ends where the last message does, wherever
// else its text may stand. See scripts/fixtures/continued.py.
func TestContinueFinalMessage(t *testing.T) {
	var f struct {
		Templates map[string]string
		Cases     []struct {
			Template string
			Messages json.RawMessage
			Out      *string
		}
	}
	data, err := os.ReadFile(filepath.Join("testdata", "continued.json"))
	require.NoError(t, err)
	require.NoError(t, json.Unmarshal(data, &f))
	require.NotEmpty(t, f.Cases)
	for _, c := range f.Cases {
		template, err := readTemplate(f.Templates[c.Template], nil)
		require.NoError(t, err)
		got, err := template.Render(t.Context(), Input{Messages: c.Messages, ContinueFinal: true})
		if c.Out == nil {
			require.ErrorIs(t, err, ErrFinalMessage, "%s", c.Messages)
			continue
		}
		require.NoError(t, err)
		require.Equal(t, *c.Out, got, "%s: %s", c.Template, c.Messages)
	}
	template, err := readTemplate(f.Templates["chatml"], nil)
	require.NoError(t, err)
	for _, messages := range []string{`[{"role": "assistant"}]`, `[{"role": "assistant", "content": 1}]`} {
		_, err := template.Render(t.Context(), Input{Messages: json.RawMessage(messages), ContinueFinal: true})
		require.ErrorContains(t, err, "could be continued")
	}
}

// The templates of an issue.
const (
	onlyParts     = `{% for m in messages %}<{{ m.role }}>{% for c in m.content %}{% if c.type == 'text' %}{{ c.text }}{% endif %}{% endfor %}{% endfor %}`
	stringOrParts = `{% for m in messages %}<{{ m.role }}>{% if m.content is string %}{{ m.content }}{% else %}{% for c in m.content %}{{ c.text }}{% endfor %}{% endif %}{% endfor %}`
)

// TestContentParts: a template that loops over parts gets them, one that does not
// gets their text, and one that knows nothing but parts gets a string as one.
func TestContentParts(t *testing.T) {
	const list, text = `[{"role": "user", "content": [{"type": "text", "text": "A"}, {"type": "text", "text": "B"}]}]`, `[{"role": "user", "content": "A"}]`
	for source, want := range map[string][2]string{ // of the list, of the string
		onlyParts:     {"<user>AB", "<user>A"},
		stringOrParts: {"<user>AB", "<user>A"},
		`{% for m in messages %}{{ m.content }}{% endfor %}`: {"A\nB", "A"},
		`{% for m in messages %}{% for c in m['content'] | selectattr('type', 'equalto', 'text') %}{{ c['text'] }},{% endfor %}{% endfor %}`: {"A,B,", "A,"},
		`{% set l = messages[0:] %}{% for m in l %}{% for c in m.content %}{{ c.text }};{% endfor %}{% endfor %}`:                            {"A;B;", "A;"},
		`{% for m in messages %}{% for c in m.other or [] %}{{ c.text }}{% endfor %}{{ m.content }}{% endfor %}`:                             {"A\nB", "A"},
		`{% for m in messages %}{{ m.content | length }}{% for x in [1] %}{{ x }}{% endfor %}{% endfor %}`:                                   {"31", "11"},
	} {
		template, err := readTemplate(source, nil)
		require.NoError(t, err)
		for i, messages := range []string{list, text} {
			got, err := template.Render(t.Context(), Input{Messages: json.RawMessage(messages)})
			require.NoError(t, err)
			require.Equal(t, want[i], got, "%s of %s", source, messages)
		}
	}
}

// TestUnusable: a template that cannot be used is refused when it is needed, and
// not before.
func TestUnusable(t *testing.T) {
	file := func(text string) *fstest.MapFile { return &fstest.MapFile{Data: []byte(text)} }
	tools := json.RawMessage(`[{"type": "function"}]`)
	for name, c := range map[string]struct {
		files        fstest.MapFS
		plain, tools string // what is rendered; empty: refused
	}{
		"list without default": {fstest.MapFS{configFile: file(
			`{"chat_template": [{"name": "tool_use", "template": "T{{ tools|length }}"}, {"name": "rag", "template": "R"}]}`,
		)}, "", "T1"},
		"unparsable": {fstest.MapFS{jinjaFile: file(`{% nope %}x`)}, "", ""},
		"unparsable for tools": {fstest.MapFS{configFile: file(
			`{"chat_template": [{"name": "tool_use", "template": "{% nope %}"}, {"name": "default", "template": "R"}]}`,
		)}, "R", "R"},
		"no string":         {fstest.MapFS{configFile: file(`{"chat_template": 1}`)}, "", ""},
		"no template in it": {fstest.MapFS{configFile: file(`{"chat_template": [{"name": "default"}]}`)}, "", ""},
	} {
		template, err := LoadFS(c.files)
		require.NoError(t, err, name)
		var unusable *UnusableError
		require.ErrorAs(t, template.Unusable(), &unusable, name)
		for i, want := range []string{c.plain, c.tools} {
			in := Input{Messages: oneMessage}
			if i == 1 {
				in.Tools = tools
			}
			got, err := template.Render(t.Context(), in)
			require.Equal(t, want, got, name)
			if want == "" {
				require.ErrorAs(t, err, &unusable, name)
			}
		}
	}
}
