package chat

import (
	"encoding/json"
	"os"
	"path/filepath"
	"testing"
	"testing/fstest"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/tandem-moe/tandem/model/chat/jinja"
)

// TestConversations: what is rendered is what transformers renders. See
// scripts/fixtures/templates.py.
func TestConversations(t *testing.T) {
	var f struct {
		Templates, Specials map[string]string
		Cases               []struct {
			Template, Name string
			Input          struct {
				Messages, Tools, Extra json.RawMessage
				AddGenerationPrompt    bool `json:"add_generation_prompt"`
			}
			Out, Err *string
		}
	}
	data, err := os.ReadFile(filepath.Join("testdata", "conversations.json"))
	require.NoError(t, err)
	require.NoError(t, json.Unmarshal(data, &f))
	require.NotEmpty(t, f.Cases)
	for _, c := range f.Cases {
		t.Run(c.Template+"/"+c.Name, func(t *testing.T) {
			template, err := readTemplate(f.Templates[c.Template], []Special{
				{"bos_token", f.Specials["bos_token"]}, {"eos_token", f.Specials["eos_token"]},
			})
			require.NoError(t, err)
			got, err := template.Render(t.Context(), Input{
				Messages: c.Input.Messages, Tools: c.Input.Tools, Extra: c.Input.Extra,
				AddGenerationPrompt: c.Input.AddGenerationPrompt,
			})
			if c.Err != nil {
				require.Error(t, err, *c.Err)
				return
			}
			require.NoError(t, err)
			require.Equal(t, *c.Out, got)
		})
	}
}

var oneMessage = json.RawMessage(`[{"role": "user", "content": "Hi"}]`)

// TestCareless: a template that stumbles over tools that are None gets none at
// all, but what it refuses by itself stays refused.
func TestCareless(t *testing.T) {
	for source, want := range map[string]string{
		"{% for t in tools %}{{ t }}{% endfor %}{{ messages | length }}":         "1",
		"{% if tools is none %}{{ raise_exception('needs tools') }}{% endif %}x": "",
		"{{ tools is none }}": "True",
	} {
		template, err := readTemplate(source, nil)
		require.NoError(t, err)
		got, err := template.Render(t.Context(), Input{Messages: oneMessage})
		require.Equal(t, want, got, source)
		require.Equal(t, want == "", err != nil, source)
	}
}

func TestBadInput(t *testing.T) {
	template, err := readTemplate("{{ messages[0].content + 1 }}", nil)
	require.NoError(t, err)
	for _, c := range []struct {
		in   Input
		want string
	}{
		{Input{}, "messages: want at least one"},
		{Input{Messages: json.RawMessage(`[]`)}, "messages: want at least one"},
		{Input{Messages: json.RawMessage(`{}`)}, "messages: want a list"},
		{Input{Messages: json.RawMessage(`[1]`)}, "messages[0]: want an object"},
		{Input{Messages: json.RawMessage(`[{`)}, "messages: JSON at byte"},
		{Input{Messages: oneMessage, Tools: json.RawMessage(`["f"]`)}, "tools[0]: want an object"},
		{Input{Messages: oneMessage, Extra: json.RawMessage(`[]`)}, "further variables: want an object"},
		{Input{Messages: oneMessage, Extra: json.RawMessage(`{"messages": []}`)}, "messages are given already"},
		{Input{Messages: oneMessage}, `can only concatenate str (not "int") to str`},
	} {
		_, err := template.Render(t.Context(), c.in)
		require.ErrorContains(t, err, c.want)
	}
	_, err = readTemplate("{% if %}", nil)
	var syntax *jinja.SyntaxError
	require.ErrorAs(t, err, &syntax)
}

// TestLoad: templates and special tokens are found in each of the files that may
// have them.
func TestLoad(t *testing.T) {
	file := func(text string) *fstest.MapFile { return &fstest.MapFile{Data: []byte(text)} }
	const config = `{"bos_token": {"content": "<s>", "lstrip": false}, "eos_token": "</s>", "pad_token": null, "chat_template": "config{{ bos_token }}{{ eos_token }}{{ pad_token is defined }}"}`
	tools := json.RawMessage(`[{"type": "function"}]`)
	for name, c := range map[string]struct {
		files fstest.MapFS
		tools json.RawMessage
		want  string
	}{
		"config": {fstest.MapFS{"tokenizer_config.json": file(config)}, nil, "config<s></s>False"},
		"jinja file": {fstest.MapFS{"tokenizer_config.json": file(config),
			"chat_template.jinja": file("file{{ bos_token }}\n")}, nil, "file<s>"},
		"processor": {fstest.MapFS{"tokenizer_config.json": file(`{}`),
			"chat_template.json": file(`{"chat_template": "processor"}`)}, nil, "processor"},
		"list": {fstest.MapFS{"tokenizer_config.json": file(
			`{"chat_template": [{"name": "default", "template": "plain"}, {"name": "tool_use", "template": "tools"}]}`)}, nil, "plain"},
		"list with tools": {fstest.MapFS{"tokenizer_config.json": file(
			`{"chat_template": [{"name": "default", "template": "plain"}, {"name": "tool_use", "template": "tools"}]}`)}, tools, "tools"},
		"additional": {fstest.MapFS{"chat_template.jinja": file("plain"),
			"additional_chat_templates/tool_use.jinja": file("tools")}, tools, "tools"},
		"special tokens map": {fstest.MapFS{
			"special_tokens_map.json": file(`{"bos_token": "<old>", "eos_token": "<end>"}`),
			"tokenizer_config.json":   file(`{"bos_token": "<new>"}`),
			"chat_template.jinja":     file("{{ bos_token }}{{ eos_token }}")}, nil, "<old><end>"},
		"special tokens map beside added_tokens_decoder": {fstest.MapFS{
			"special_tokens_map.json": file(`{"bos_token": "<old>", "eos_token": "<end>"}`),
			"tokenizer_config.json":   file(`{"bos_token": "<new>", "added_tokens_decoder": {}}`),
			"chat_template.jinja":     file("{{ bos_token }}{{ eos_token }}")}, nil, "<new>"},
		"config beside a processor": {fstest.MapFS{"tokenizer_config.json": file(`{"chat_template": "CONFIG"}`),
			"chat_template.json": file(`{"chat_template": "JSON"}`)}, nil, "CONFIG"},
		"jinja file beside a list": {fstest.MapFS{"chat_template.jinja": file("FILE"), "tokenizer_config.json": file(
			`{"chat_template": [{"name": "default", "template": "D"}, {"name": "tool_use", "template": "OLD"}]}`)}, tools, "FILE"},
	} {
		template, err := LoadFS(c.files)
		require.NoError(t, err, name)
		got, err := template.Render(t.Context(), Input{Messages: oneMessage, Tools: c.tools})
		require.NoError(t, err, name)
		require.Equal(t, c.want, got, name)
	}

	_, err := LoadFS(fstest.MapFS{"tokenizer_config.json": file(`{"bos_token": "<s>"}`)})
	require.ErrorIs(t, err, ErrNoTemplate)
	_, err = LoadFS(fstest.MapFS{})
	require.ErrorIs(t, err, ErrNoTemplate)
	for text, want := range map[string]string{
		`{"chat_template": 1}`:                                  "want a string or a list",
		`{"chat_template": [{"name": "default"}]}`:              "chat_template[0]",
		`{"chat_template": [{"name": "rag", "template": "x"}]}`: "named \"default\"",
		`{"chat_template": "{% nope %}"}`:                       "line 1: the tag \"nope\"",
		`[]`:                                                    "tokenizer_config.json: want an object",
		`{`:                                                     "tokenizer_config.json: JSON at byte",
	} {
		template, err := LoadFS(fstest.MapFS{"tokenizer_config.json": file(text)})
		if err == nil {
			err = template.Unusable()
		}
		require.ErrorContains(t, err, want)
	}
}

// TestStrftime: as Python's datetime.strftime in the C locale.
func TestStrftime(t *testing.T) {
	at := time.Date(2026, 3, 5, 4, 7, 9, 12345000, time.UTC)
	for format, want := range map[string]string{
		"%d %b %Y":          "05 Mar 2026",
		"%A, %B %-d, %Y":    "Thursday, March 5, 2026",
		"%Y-%m-%dT%H:%M:%S": "2026-03-05T04:07:09",
		"%I:%M %p %-I":      "04:07 AM 4",
		"%j %-j %y %a %h":   "064 64 26 Thu Mar",
		"%e|%u|%w|%f":       " 5|4|4|012345",
		"%c|%x|%X|%D|%F":    "Thu Mar  5 04:07:09 2026|03/05/26|04:07:09|03/05/26|2026-03-05",
		"100%% %":           "100% %",
		"%Z%z|":             "|",
		"plain":             "plain",
	} {
		got, err := strftime(at, format)
		require.NoError(t, err)
		require.Equal(t, want, got, format)
	}
	_, err := strftime(at, "%Q")
	require.ErrorContains(t, err, "%Q")

	template, err := readTemplate("{{ strftime_now('%d %B') }}{{ strftime_now(1) }}", nil)
	require.NoError(t, err)
	_, err = template.Render(t.Context(), Input{Messages: oneMessage})
	require.ErrorContains(t, err, "strftime_now takes one string")
	template, err = readTemplate("{{ strftime_now('%d %B') }}", nil)
	require.NoError(t, err)
	template.Now = func() time.Time { return at }
	got, err := template.Render(t.Context(), Input{Messages: oneMessage})
	require.NoError(t, err)
	require.Equal(t, "05 March", got)
}

// FuzzInput: whatever a client sends, a template renders or refuses it.
func FuzzInput(f *testing.F) {
	var templates []*Template
	for _, source := range []string{
		"{% for m in messages %}{{ m.role }}{{ m.content | trim }}{{ m | tojson }}{% endfor %}{{ tools | tojson(indent=2) }}{{ x }}",
		onlyParts, stringOrParts,
	} {
		template, err := readTemplate(source, nil)
		require.NoError(f, err)
		templates = append(templates, template)
	}
	f.Add([]byte(`[{"role": "user", "content": "Hi"}]`), []byte(`[{"a": 1}]`), []byte(`{"x": 1}`))
	f.Add([]byte(`[{"role": "user", "con`), []byte(``), []byte(`{"x": [1, {"y": nul`))
	f.Add([]byte(`[{"role": "user", "content": [{"type": "text", "text": "A"}, {"text": 1}, 2]}]`), []byte(``), []byte(``))
	f.Fuzz(func(t *testing.T, messages, tools, extra []byte) {
		for _, template := range templates {
			for _, final := range []bool{false, true} {
				in := Input{Messages: messages, Tools: tools, Extra: extra, ContinueFinal: final}
				text, err := template.Render(t.Context(), in)
				require.True(t, err == nil || text == "")
				again, _ := template.Render(t.Context(), in)
				require.Equal(t, text, again)
			}
		}
	})
}

// FuzzFiles: whatever the files say that may hold a template, they are read or
// refused, and a conversation is rendered or refused.
func FuzzFiles(f *testing.F) {
	f.Add([]byte(`{"chat_template": [{"name": "tool_use", "template": "T"}], "eos_token": {"content": "e"}}`),
		[]byte(`{"eos_token": "a"}`), []byte(`{"chat_template": "x"}`), "")
	f.Add([]byte(`{"chat_template": {"default": "{{ eos_token }}"}, "extra_special_tokens": {"x_token": "y"}, "added_tokens_decoder": {}}`),
		[]byte(``), []byte(`{}`), "{% for m in messages %}{{ m.content }}{% endfor %}")
	f.Add([]byte(`{"chat_template": "{% if"}`), []byte(`[`), []byte(`{"chat_template": 1}`), onlyParts)
	f.Fuzz(func(t *testing.T, config, special, older []byte, file string) {
		dir := fstest.MapFS{configFile: {Data: config}, specialFile: {Data: special}, processor: {Data: older}}
		if file != "" {
			dir[jinjaFile] = &fstest.MapFile{Data: []byte(file)}
		}
		template, err := LoadFS(dir)
		if err != nil {
			return
		}
		text, err := template.Render(t.Context(), Input{Messages: oneMessage})
		require.True(t, err == nil || text == "")
		if template.plain == nil {
			require.Error(t, err)
			require.Error(t, template.Unusable())
		}
	})
}

// readTemplate reads a template that stands alone. specials become variables.
func readTemplate(template string, specials []Special) (*Template, error) {
	t := newTemplate(source{plain: &template, specials: specials})
	return t, t.Unusable()
}
