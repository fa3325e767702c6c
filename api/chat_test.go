package api_test

import (
	"context"
	"encoding/json"
	"errors"
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/tandem-moe/tandem/api"
	"github.com/tandem-moe/tandem/serve/completion/enginetest"
)

// heardTemplate keeps what it is asked to render.
type heardTemplate struct {
	in   api.TemplateInput
	text string
	err  error
}

func (h *heardTemplate) Render(_ context.Context, in api.TemplateInput) (string, error) {
	h.in = in
	return h.text, h.err
}

// rendered is an api.TemplateInput as text.
type rendered struct {
	messages, tools, kwargs string
	prompt                  bool
}

// TestTemplateInput: what a template sees of a conversation.
func TestTemplateInput(t *testing.T) {
	const user = `{"role":"user","content":"x"}`
	const tools = `[{"type":"function","function":{"name":"f","parameters":{"z":1,"a":{}}}}]`
	const variables = `{"b":1,"a":[2]}`
	for _, c := range []struct {
		name, body string
		want       rendered
	}{
		{"fields keep the client's order",
			`{"messages":[{"content":"x","name":"zoe","role":"user"}]}`,
			rendered{messages: `[{"content":"x","name":"zoe","role":"user"}]`, prompt: true}},
		{"parts of text stay parts",
			`{"messages":[{"role":"user","content":[{"type":"text","text":"a"},{"text":"b","type":"text"}]}]}`,
			rendered{messages: `[{"role":"user","content":[{"type":"text","text":"a"},{"type":"text","text":"b"}]}]`, prompt: true}},
		{"escapes and other scripts stay what they are",
			`{"messages":[{"role":"user","content":"<&>\u00e9\"\\"}]}`,
			rendered{messages: `[{"role":"user","content":"<&>é\"\\"}]`, prompt: true}},
		{"null is nothing",
			`{"messages":[{"role":"user","content":"x","name":null,"tool_calls":null}]}`,
			rendered{messages: `[` + user + `]`, prompt: true}},
		{"an answer without content has an empty one; arguments become an object",
			`{"messages":[{"role":"assistant","content":null,"refusal":null,"annotations":[],"tool_calls":[{"id":"1","type":"function","function":{"name":"f","arguments":"{\"b\": 1, \"a\": 2}"}}]},
			  {"role":"tool","tool_call_id":"1","content":"ok"},{"role":"assistant","tool_calls":[{"function":{"arguments":{"z":1},"name":"g"}},{"function":{"name":"h","arguments":" "}}]},` + user + `]}`,
			rendered{prompt: true, messages: `[{"role":"assistant","content":"","tool_calls":[{"id":"1","type":"function","function":{"name":"f","arguments":{"b": 1, "a": 2}}}]},` +
				`{"role":"tool","tool_call_id":"1","content":"ok"},{"role":"assistant","tool_calls":[{"function":{"arguments":{"z":1},"name":"g"}},{"function":{"name":"h","arguments":{}}}],"content":""},` + user + `]`}},
		{"tools and variables stay as they are",
			`{"messages":[` + user + `],"tools":` + tools + `,"tool_choice":"none","chat_template_kwargs":` +
				variables + `}`, rendered{`[` + user + `]`, tools, variables, true}},
		{"no tools is none", `{"messages":[` + user + `],"tools":[]}`,
			rendered{messages: `[` + user + `]`, prompt: true}},
		{"no generation prompt", `{"messages":[` + user + `],"add_generation_prompt":false}`,
			rendered{messages: `[` + user + `]`}},
	} {
		t.Run(c.name, func(t *testing.T) {
			template := &heardTemplate{text: "text"}
			cfg := config(enginetest.New())
			cfg.Template = template
			w := ask(t, api.NewServer(cfg), "POST", "/v1/chat/completions", c.body)
			require.Equal(t, 200, w.Code, w.Body)
			in := template.in
			require.Equal(t, c.want, rendered{string(in.Messages), string(in.Tools), string(in.Kwargs),
				in.AddGenerationPrompt})
		})
	}
}

func TestDeveloper(t *testing.T) {
	for _, known := range []bool{true, false} {
		template := &heardTemplate{text: "text"}
		cfg := config(enginetest.New())
		cfg.Template, cfg.MapDeveloper = template, !known
		require.Equal(t, 200, ask(t, api.NewServer(cfg), "POST", "/v1/chat/completions",
			`{"messages":[{"role":"developer","content":"x"}]}`).Code)
		role := map[bool]string{true: "developer", false: "system"}[known]
		require.Equal(t, `[{"role":"`+role+`","content":"x"}]`, string(template.in.Messages))
	}
}

// TestContinueFinalMessage: the template cuts behind the last message; what it
// answers with is the answer.
func TestContinueFinalMessage(t *testing.T) {
	cfg := config(enginetest.New())
	template := &heardTemplate{text: "text"}
	cfg.Template = template
	const body = `{"continue_final_message":true,"messages":[{"role":"assistant","content":"x"}]}`
	require.Equal(t, 200, ask(t, api.NewServer(cfg), "POST", "/v1/chat/completions", body).Code)
	require.True(t, template.in.ContinueFinalMessage)
	require.False(t, template.in.AddGenerationPrompt)
	template.err = &api.Error{Status: 400, Param: "continue_final_message", Message: "it cannot be found"}
	w := ask(t, api.NewServer(cfg), "POST", "/v1/chat/completions", body)
	require.Equal(t, 400, w.Code)
	require.Equal(t, "continue_final_message", *errorOf(t, w.Body).Param)
}

func TestTemplateRefuses(t *testing.T) {
	cfg := config(enginetest.New())
	cfg.Template = &heardTemplate{err: errors.New("roles must alternate")}
	w := ask(t, api.NewServer(cfg), "POST", "/v1/chat/completions", `{"messages":[{"role":"user","content":"x"}]}`)
	require.Equal(t, 400, w.Code)
	require.Contains(t, errorOf(t, w.Body).Message, "roles must alternate")
}

// TestMessage: a message is written as it was read, text for text.
func TestMessage(t *testing.T) {
	const message = `{"role":"user","content":"a \"b\" <c>"}`
	r, err := (&api.Parser{}).Chat([]byte(`{"messages":[` + message + `]}`))
	require.NoError(t, err)
	again, err := json.Marshal(r.Messages)
	require.NoError(t, err)
	require.Equal(t, "["+message+"]", strings.NewReplacer(`\u003c`, "<", `\u003e`, ">").Replace(string(again)))
	require.Equal(t, "user", r.Messages[0].Role)
}

// TestSpecialTokens: templates write their own; plain prompts get the
// tokenizer's.
func TestSpecialTokens(t *testing.T) {
	for body, special := range map[string]bool{
		`{"prompt":"x"}`: true, `{"prompt":"x","add_special_tokens":false}`: false,
		`{"messages":[{"role":"user","content":"x"}]}`:                           false,
		`{"messages":[{"role":"user","content":"x"}],"add_special_tokens":true}`: true,
	} {
		e := enginetest.New()
		path := "/v1/completions"
		if strings.Contains(body, "messages") {
			path = "/v1/chat/completions"
		}
		require.Equal(t, 200, ask(t, api.NewServer(config(e)), "POST", path, body).Code)
		require.Equal(t, special, e.Requests()[0].Prompt[0] == enginetest.BOS, body)
	}
}

// endless is a template that goes on until it is told to stop.
type endless struct{}

func (endless) Render(ctx context.Context, _ api.TemplateInput) (string, error) {
	<-ctx.Done()
	return "", ctx.Err()
}

// TestRenderingHasATime: a template that takes too long is the conversation's fault,
// or the template's, and costs no more than its time.
func TestRenderingHasATime(t *testing.T) {
	c := config(enginetest.New())
	c.Template, c.Limits.Render = endless{}, 10*time.Millisecond
	w := ask(t, api.NewServer(c), "POST", "/v1/chat/completions", `{"messages":[{"role":"user","content":"x"}]}`)
	require.Equal(t, http.StatusBadRequest, w.Code)
	require.Contains(t, w.Body.String(), "the model's chat template takes longer than 10ms for the conversation")
}
