package api_test

import (
	"bytes"
	"fmt"
	"log/slog"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/tandem-moe/tandem/api"
	"github.com/tandem-moe/tandem/model"
	"github.com/tandem-moe/tandem/serve/completion/enginetest"
)

const (
	texts = "/v1/completions"
	chats = "/v1/chat/completions"
	user  = `{"messages":[{"role":"user","content":"x"}]`
)

// TestUnknownFields: what nobody knows is ignored, and told to the client and once
// to the log; a strict server refuses it. Both say what may have been meant.
func TestUnknownFields(t *testing.T) {
	for _, c := range []struct {
		path, body string
		want       []string
	}{
		{texts, `{"prompt":"x","temprature":0}`, []string{"unknown field, ignored: temprature (did you mean temperature?)"}},
		{texts, `{"prompt":"x","maxTokens":5,"wholly_new":{"a":[1]}}`,
			[]string{"unknown field, ignored: maxTokens (did you mean max_tokens?)", "unknown field, ignored: wholly_new"}},
		{texts, `{"prompt":"x","stream":true,"stream_options":{"include_usages":true}}`, []string{"unknown field, ignored: stream_options.include_usages (did you mean include_usage?)"}},
		{texts, `{"prompt":"x","é\r\nX: \"":1}`, []string{`unknown field, ignored: \u00e9\r\nX: "`}},
		{chats, `{"messages":[{"role":"user","content":"x","mood":"y"}]}`, []string{"unknown field, ignored: messages[0].mood"}},
		{chats, `{"messages":[{"role":"user","content":[{"type":"text","text":"x","more":1}]}]}`, []string{"unknown field, ignored: messages[0].content[0].more"}},
		{chats, user + `,"prompt":"y"}`, []string{"unknown field, ignored: prompt"}},
		{chats, user + `,"reasoning_effort":"none"}`, []string{"reasoning_effort: none changes nothing by itself; if the model's template can turn reasoning off, chat_template_kwargs does"}},
		{"/tokenize", `{"prompt":"x","promt":"y"}`, []string{"unknown field, ignored: promt (did you mean prompt?)"}},
	} {
		t.Run(c.body, func(t *testing.T) {
			cfg := config(enginetest.New())
			var log bytes.Buffer
			cfg.Log = slog.New(slog.NewTextHandler(&log, &slog.HandlerOptions{Level: slog.LevelWarn}))
			s := api.NewServer(cfg)
			const asked = 30
			for range asked {
				w := ask(t, s, "POST", c.path, c.body)
				require.Equal(t, 200, w.Code, w.Body)
				require.Equal(t, c.want, w.Header().Values("Warnings"))
			}
			lines := strings.Count(log.String(), "change nothing")
			require.Greater(t, lines, 0)
			require.Less(t, lines, asked, "the log is bounded")

			if !strings.HasPrefix(c.want[0], "unknown") {
				return
			}
			cfg.Strict = true
			w := ask(t, api.NewServer(cfg), "POST", c.path, c.body)
			require.Equal(t, 400, w.Code, w.Body)
			require.Empty(t, w.Header().Values("Warnings"))
			e := errorOf(t, w.Body)
			require.Equal(t, "unknown_parameter", *e.Code)
			if _, meant, found := strings.Cut(c.want[0], "("); found {
				require.Contains(t, e.Message, meant)
			}
		})
	}
}

// TestManyUnknownFields: a header stays short.
func TestManyUnknownFields(t *testing.T) {
	var fields strings.Builder
	for i := range 1000 {
		fmt.Fprintf(&fields, `,"%s%d":1`, strings.Repeat("x", 200), i)
	}
	w := ask(t, api.NewServer(config(enginetest.New())), "POST", texts, `{"prompt":"x"`+fields.String()+`}`)
	require.Equal(t, 200, w.Code)
	warnings := w.Header().Values("Warnings")
	require.Len(t, warnings, 9)
	require.Equal(t, "and 992 more", warnings[8])
	require.Less(t, len(strings.Join(warnings, "")), 2000)
}

// TestNeutralFields: what asks for nothing passes, and changes nothing; the same
// field with something in it is refused.
func TestNeutralFields(t *testing.T) {
	for path, base := range map[string]string{texts: `{"prompt":"x"`, chats: user} {
		plain := submitted(t, model.GenerationDefaults{}, path, base+`,"seed":1}`)
		for _, field := range []string{
			`"stop":""`, `"stop":[]`, `"stop":[""]`, `"stop":null`, `"stop_token_ids":[]`, `"logit_bias":{}`,
			`"bad_words":[]`,
			`"response_format":{"type":"text"}`, `"response_format":null`, `"guided_choice":[]`, `"vllm_xargs":{}`,
			`"cache_salt":""`,
			`"user":"u"`, `"metadata":{"a":"b"}`, `"cache_control":{"type":"ephemeral"}`,
			`"truncate_prompt_tokens":null`, `"logits_processors":[]`,
		} {
			require.Equal(t, plain, submitted(t, model.GenerationDefaults{}, path, base+`,"seed":1,`+field+`}`), field)
		}
	}
	plain := submitted(t, model.GenerationDefaults{}, chats, user+`,"seed":1}`)
	for _, field := range []string{
		`"documents":[]`, `"documents":null`, `"reasoning_effort":null`, `"reasoning_effort":"medium"`,
		`"reasoning_effort":"none"`,
		`"parallel_tool_calls":true`, `"parallel_tool_calls":false`, `"tools":[]`, `"tools":null`, `"functions":[]`,
		`"function_call":"none"`,
		`"tool_choice":"none"`, `"tool_choice":null`, `"chat_template":""`, `"verbosity":"medium"`,
		`"mm_processor_kwargs":{}`,
	} {
		require.Equal(t, plain, submitted(t, model.GenerationDefaults{}, chats, user+`,"seed":1,`+field+`}`), field)
	}
	for _, message := range []string{
		`{"role":"user","content":[{"type":"text","text":"x","cache_control":{"type":"ephemeral"}}]}`,
		`{"role":"user","content":"x","cache_control":{"type":"ephemeral"}}`, `{"role":"user","content":"x","tool_calls":[]}`,
		`{"role":"user","content":"x","refusal":""}`,
	} {
		require.Equal(t, plain, submitted(t, model.GenerationDefaults{}, chats, `{"seed":1,"messages":[`+message+`]}`),
			message)
	}
	const tool = `"type":"function","function":{"name":"f"}`
	require.Equal(t, submitted(t, model.GenerationDefaults{}, chats, user+`,"seed":1,"tools":[{`+tool+`}]}`),
		submitted(t, model.GenerationDefaults{}, chats,
			user+`,"seed":1,"tools":[{`+tool+`,"cache_control":{"type":"ephemeral"}}]}`))
}

// TestManyStops: more stop strings than OpenAI's four work, up to a limit.
func TestManyStops(t *testing.T) {
	stops := func(n int) string {
		return `{"prompt":"x","temperature":0,"max_tokens":40,"stop":[` + strings.Repeat(`"never",`, n-1) + `"from"]}`
	}
	cfg := config(enginetest.New())
	w := ask(t, api.NewServer(cfg), "POST", texts, stops(64))
	require.Equal(t, 200, w.Code, w.Body)
	require.Contains(t, w.Body.String(), `"text":"Hello ","logprobs":null,"finish_reason":"stop","stop_reason":"from"`)
	require.Equal(t, 400, ask(t, api.NewServer(cfg), "POST", texts, stops(65)).Code)
	cfg.Limits.Stops = 100
	require.Equal(t, 200, ask(t, api.NewServer(cfg), "POST", texts, stops(100)).Code)
}

// TestTruncate: a prompt keeps its last tokens, and what the tokenizer puts before
// a text.
func TestTruncate(t *testing.T) {
	long := strings.Repeat("a", 600) + "bcd"
	for _, c := range []struct {
		fields string
		want   []int32
	}{
		{`"prompt":"abcdef","truncate_prompt_tokens":3`, append([]int32{enginetest.BOS}, enginetest.Bytes("ef")...)},
		{`"prompt":"abcdef","truncate_prompt_tokens":1`, enginetest.Bytes("f")},
		{`"prompt":"abcdef","truncate_prompt_tokens":3,"add_special_tokens":false`, enginetest.Bytes("def")},
		{`"prompt":"abcdef","truncate_prompt_tokens":3,"truncation_side":"right"`,
			append([]int32{enginetest.BOS}, enginetest.Bytes("ab")...)},
		{`"prompt":[1,2,3,4],"truncate_prompt_tokens":3`, []int32{2, 3, 4}},
		{`"prompt":[1,2,3,4],"truncate_prompt_tokens":3,"truncation_side":"right"`, []int32{1, 2, 3}},
		{`"prompt":[1,2,3,4],"truncate_prompt_tokens":4`, []int32{1, 2, 3, 4}},
		{`"prompt":[1,2],"truncate_prompt_tokens":-1`, []int32{1, 2}},
		{`"prompt":"` + long + `","truncate_prompt_tokens":-1,"max_tokens":2`,
			append([]int32{enginetest.BOS}, enginetest.Bytes(long[603-509:])...)},
	} {
		got := submitted(t, model.GenerationDefaults{}, texts, `{`+c.fields+`}`).Prompt
		require.Equal(t, c.want, got, c.fields)
	}
	rendered := submitted(t, model.GenerationDefaults{}, chats, user+`}`).Prompt
	require.Equal(t, rendered[len(rendered)-5:], submitted(t, model.GenerationDefaults{}, chats,
		user+`,"truncate_prompt_tokens":5}`).Prompt)
	w := ask(t, api.NewServer(config(enginetest.New())), "POST", texts,
		`{"prompt":"abc","echo":true,"max_tokens":0,"truncate_prompt_tokens":2,"logprobs":1}`)
	require.Contains(t, w.Body.String(), `"text":"c","logprobs":{"text_offset":[0,0],`)
}

// TestOverflow: a prompt that is too long is refused in OpenAI's words.
func TestOverflow(t *testing.T) {
	long := strings.Repeat("x", 600)
	for _, c := range []struct{ path, body, param, want string }{
		{texts, `{"prompt":"a","max_tokens":600}`, "prompt",
			"This model's maximum context length is 512 tokens. However, you requested 602 tokens (2 in the prompt, 600 in the completion). Please reduce the length of the prompt or completion."},
		{texts, `{"prompt":"` + long + `"}`, "prompt",
			"This model's maximum context length is 512 tokens. However, your prompt resulted in 601 tokens. Please reduce the length of the prompt."},
		{chats, user + `,"max_tokens":600}`, "messages",
			"This model's maximum context length is 512 tokens. However, you requested 639 tokens (39 in the messages, 600 in the completion). Please reduce the length of the messages or completion."},
		{chats, `{"messages":[{"role":"user","content":"` + long + `"}]}`, "messages",
			"This model's maximum context length is 512 tokens. However, your messages resulted in 638 tokens. Please reduce the length of the messages."},
	} {
		w := ask(t, api.NewServer(config(enginetest.New())), "POST", c.path, c.body)
		require.Equal(t, 400, w.Code)
		e := errorOf(t, w.Body)
		require.Equal(t, c.want+" (context_length_exceeded)", e.Message)
		require.Equal(t, "context_length_exceeded", *e.Code)
		require.Equal(t, c.param, *e.Param)
	}
}
