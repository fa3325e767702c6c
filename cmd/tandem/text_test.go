package main

import (
	"encoding/json"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/tandem-moe/tandem/api"
	"github.com/tandem-moe/tandem/serve/deploy"
)

// opened is the text side of a fixture with changes to its files; added files
// come beside them.
func opened(t *testing.T, changes map[string]func(string) string, added map[string]string) (*text, *deploy.Model) {
	t.Helper()
	dir := fixture(t, changes)
	for name, data := range added {
		require.NoError(t, os.WriteFile(filepath.Join(dir, name), []byte(data), 0o600))
	}
	m, err := deploy.OpenModel(dir)
	require.NoError(t, err)
	t.Cleanup(func() { require.NoError(t, m.Checkpoint.Close()) })
	text, err := openText(m)
	require.NoError(t, err)
	return text, m
}

// with sets a field of a JSON file.
func with(t *testing.T, name string, value any) func(string) string {
	return func(s string) string {
		var fields map[string]any
		require.NoError(t, json.Unmarshal([]byte(s), &fields))
		fields[name] = value
		data, err := json.Marshal(fields)
		require.NoError(t, err)
		return string(data)
	}
}

// TestTokenizerEnds: the tokenizer's eos_token ends an output, beside what the
// model's files say.
func TestTokenizerEnds(t *testing.T) {
	text, m := opened(t, map[string]func(string) string{
		"config.json":           with(t, "eos_token_id", []int{1, 2}),
		"tokenizer_config.json": with(t, "eos_token", "a"),
	}, nil)
	a, ok := text.tokens.ID("a")
	require.True(t, ok)
	require.Equal(t, []int32{1, 2, a}, text.eos)
	require.Equal(t, []int32{1, 2}, m.Spec.EOS)

	text, _ = opened(t, map[string]func(string) string{
		"config.json":           with(t, "eos_token_id", []int{1, 2}),
		"tokenizer_config.json": with(t, "eos_token", "<a token that the model lacks>"),
	}, nil)
	require.Equal(t, []int32{1, 2}, text.eos, "what the model cannot write is no end")
}

// TestLargerTokenizer: a tokenizer with more tokens than the model serves, and an
// operator is told.
func TestLargerTokenizer(t *testing.T) {
	text, m := opened(t, map[string]func(string) string{"tokenizer_config.json": with(t, "pad_token", "<a new pad>")},
		nil)
	ids, err := text.tokens.Encode(t.Context(), "a<a new pad>", false)
	require.NoError(t, err)
	require.GreaterOrEqual(t, int(ids[len(ids)-1]), m.Spec.Vocabulary)
	require.Contains(t, strings.Join(text.notes, "\n"), "prompts with the ids in between are refused")
}

// TestUnusableTemplate: a model with such a template is served; chat is refused
// with the reason.
func TestUnusableTemplate(t *testing.T) {
	text, _ := opened(t, nil, map[string]string{"chat_template.jinja": "{% nope %}"})
	require.Contains(t, strings.Join(text.notes, "\n"), "cannot be used")
	_, err := text.template().Render(t.Context(),
		api.TemplateInput{Messages: api.Raw(`[{"role":"user","content":"x"}]`)})
	var answer *api.Error
	require.ErrorAs(t, err, &answer)
	require.Equal(t, "no_chat_template", answer.Code)
	require.Contains(t, answer.Message, `the tag "nope"`)

	text, _ = opened(t, nil,
		map[string]string{"chat_template.jinja": "{% for m in messages %}{{ m.role }}{% endfor %}"})
	_, err = text.template().Render(t.Context(), api.TemplateInput{Messages: api.Raw(`[{"role":"user","content":"x"}]`),
		ContinueFinalMessage: true})
	require.ErrorAs(t, err, &answer)
	require.Equal(t, "continue_final_message", answer.Param)
}
