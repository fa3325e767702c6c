package api_test

import (
	"fmt"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/tandem-moe/tandem/api"
	"github.com/tandem-moe/tandem/internal/golden"
	"github.com/tandem-moe/tandem/serve/completion/enginetest"
)

// ask sends a request to a server without a socket.
func ask(t *testing.T, s *api.Server, method, path, body string) *httptest.ResponseRecorder {
	t.Helper()
	w := httptest.NewRecorder()
	r := httptest.NewRequestWithContext(t.Context(), method, path, strings.NewReader(body))
	s.ServeHTTP(w, r)
	return w
}

// TestAnswers keeps whole answers; read them before a change is committed.
func TestAnswers(t *testing.T) {
	const hello = `"messages":[{"role":"user","content":"hello"}],"temperature":0,"max_tokens":3`
	for name, exchanges := range map[string][][2]string{
		"completions.txt": {
			{"/v1/completions", `{"model":"fake","prompt":"hi","temperature":0,"max_tokens":5}`},
			{"/v1/completions", `{"prompt":"hi","temperature":0,"max_tokens":64}`},
			{"/v1/completions", `{"prompt":["a","b"],"n":2,"seed":1,"max_tokens":3}`},
			{"/v1/completions", `{"prompt":[104,105],"temperature":0,"max_tokens":2,"echo":true,"logprobs":2,"return_token_ids":true}`},
			{"/v1/completions", `{"prompt":"hé","temperature":0,"max_tokens":0,"echo":true,"logprobs":1}`},
			{"/v1/completions", `{"prompt":"é","temperature":0,"max_tokens":1,"echo":true,"logprobs":1,"return_tokens_as_token_ids":true}`},
			{"/v1/completions", `{"prompt":"hi","temperature":0,"max_tokens":0,"echo":true}`},
			{"/v1/completions", `{"prompt":"hi","temperature":0,"max_tokens":20,"stop":"from"}`},
			{"/v1/completions", `{"prompt":"hi","temperature":0,"max_tokens":20,"stop_token_ids":[108],"return_token_ids":true}`},
			{"/v1/completions", `{"prompt":"hi","temperature":0,"max_tokens":4,"stream":true,"request_id":"mine"}`},
			{"/v1/completions", `{"prompt":"hi","temperature":0,"max_tokens":2,"stream":true,"echo":true,"logprobs":1,"return_token_ids":true,"stream_options":{"include_usage":true}}`},
			{"/v1/completions", `{"prompt":"hi","temperature":0,"max_tokens":2,"stream":true,"stream_options":{"include_usage":true,"continuous_usage_stats":true}}`},
		},
		"chat.txt": {
			{"/v1/chat/completions", `{"model":"also-fake",` + hello + `}`},
			{"/v1/chat/completions", `{` + hello + `,"logprobs":true,"top_logprobs":2,"return_token_ids":true}`},
			{"/v1/chat/completions", `{` + hello + `,"logprobs":true}`},
			{"/v1/chat/completions", `{` + hello + `,"stream":true,"logprobs":true,"return_token_ids":true,"stream_options":{"include_usage":true}}`},
			{"/v1/chat/completions", `{` + hello + `,"stream":true,"stop":["l"]}`},
		},
		"others.txt": {
			{"/v1/models", ""},
			{"/v1/models/also-fake", ""},
			{"/v1/models/other", ""},
			{"/v1/models/", ""},
			{"/", ""},
			{"/health", ""},
			{"/version", ""},
			{"/nowhere", ""},
			{"/v1/completions", ""},
			{"/tokenize", `{"prompt":"hé"}`},
			{"/tokenize", `{"prompt":"hé","add_special_tokens":false,"return_token_strs":true}`},
			{"/tokenize", `{"messages":[{"role":"user","content":"x"}]}`},
			{"/tokenize", `{"prompt":""  ,  "add_special_tokens":false}`},
			{"/detokenize", `{"tokens":[256,104,195,169]}`},
		},
	} {
		t.Run(name, func(t *testing.T) {
			s := api.NewServer(config(enginetest.New()))
			var got strings.Builder
			for _, e := range exchanges {
				method := http.MethodGet
				if e[1] != "" {
					method = http.MethodPost
				}
				w := ask(t, s, method, e[0], e[1])
				fmt.Fprintf(&got, "> %s %s %s\n%d %s\n%s\n", method, e[0], e[1], w.Code, w.Header().Get("Content-Type"),
					w.Body)
			}
			golden.File(t, name, got.String())
		})
	}
}

// TestRefusals keeps what each mistake is answered with, by a server that is strict.
func TestRefusals(t *testing.T) {
	cfg := config(enginetest.New())
	cfg.Strict = true
	s := api.NewServer(cfg)
	long := `"` + strings.Repeat("x", 600) + `"`
	var got strings.Builder
	for _, body := range []string{
		``, `{`, `[]`, `"x"`, `{"prompt":"a"} x`, "{\"prompt\":\"\xff\"}", `{"prompt":"\ud800"}`,
		`{"prompt":"\ud83d\ude00\udc00"}`,
		strings.Repeat("[", 100), `{"prompt":"a","prompt":"b"}`, `{"prompt":"a","stream_options":{"include_usage":true,"include_usage":true}}`,
		`{}`, `{"prompt":null}`, `{"prompt":7}`, `{"prompt":{}}`, `{"prompt":[]}`, `{"prompt":[[]]}`,
		`{"prompt":["a",1]}`, `{"prompt":[1,"a"]}`, `{"prompt":[1.5]}`,
		`{"prompt":[[1],[99999999999]]}`, `{"prompt":[[1],[258]]}`, `{"prompt":[true]}`,
		`{"prompt":"","add_special_tokens":false}`,
		`{"prompt":` + long + `}`, `{"prompt":"a","max_tokens":600}`, `{"prompt":"a","model":"other"}`,
		`{"prompt":"a","model":3}`,
		`{"prompt":"a","max_tokens":-1}`, `{"prompt":"a","max_tokens":0}`, `{"prompt":"a","max_tokens":1.5}`,
		`{"prompt":"a","max_tokens":1e99}`,
		`{"prompt":"a","temperature":2.5}`, `{"prompt":"a","temperature":"x"}`, `{"prompt":"a","top_p":-0.1}`,
		`{"prompt":"a","n":129}`,
		`{"prompt":"a","seed":1e30}`, `{"prompt":"a","stop":[1]}`,
		`{"prompt":"a","stop":[` + strings.Repeat(`"x",`, 64) + `"x"]}`,
		`{"prompt":"a","stop":` + strings.Replace(long, "x", strings.Repeat("x", 4096), 1) + `}`,
		`{"prompt":"a","temprature":1}`, `{"prompt":"a","max-token":1}`, `{"prompt":"a","truncate_prompt_tokens":600}`,
		`{"prompt":"a","truncate_prompt_tokens":-2}`, `{"prompt":"a","truncation_side":"top"}`,
		`{"prompt":"a","logit_bias":{"x":1}}`, `{"prompt":"a","logit_bias":{"300":1}}`,
		`{"prompt":"a","logit_bias":{"3":200}}`, `{"prompt":"a","logit_bias":[1]}`,
		`{"prompt":"a","stop_token_ids":[300]}`, `{"prompt":"a","logprobs":21}`, `{"prompt":"a","logprobs":true}`,
		`{"prompt":"a","min_tokens":9,"max_tokens":8}`, `{"prompt":"a","min_tokens":17}`,
		`{"prompt":[[1],[` + strings.Repeat("1,", 600) + `1]]}`,
		`{"prompt":"a",` + long + `:1}`, `{"prompt":"a",` + long + `:1,` + long + `:1}`,
		`{"prompt":"a","model":` + long + `}`,
		`{"prompt":"a","stream_options":{"include_usage":true}}`, `{"prompt":"a","stream":true,"stream_options":{"include_obfuscation":true}}`,
		`{"prompt":"a","request_id":"a b"}`, `{"prompt":"a","echo":"yes"}`, `{"prompt":"a","best_of":2}`,
		`{"prompt":"a","messages":[]}`,
	} {
		w := ask(t, s, http.MethodPost, "/v1/completions", body)
		require.GreaterOrEqual(t, w.Code, 400, body)
		fmt.Fprintf(&got, "> %s\n%d %s\n", shown(body), w.Code, w.Body)
	}
	for _, body := range []string{
		`{}`, `{"messages":[]}`, `{"messages":{}}`, `{"messages":["hi"]}`, `{"messages":[{}]}`,
		`{"messages":[{"role":"user"}]}`,
		`{"messages":[{"role":"king","content":"x"}]}`, `{"messages":[{"role":1,"content":"x"}]}`, `{"messages":[{"role":"user","content":3}]}`,
		`{"messages":[{"role":"user","content":null}]}`, `{"messages":[{"role":"user","content":"x","mood":"y"}]}`,
		`{"messages":[{"role":"user","content":[{"type":"image_url","image_url":{"url":"x"}}]}]}`,
		`{"messages":[{"role":"user","content":[{"type":"text","text":"x"},{"type":"input_audio","input_audio":{}}]}]}`,
		`{"messages":[{"role":"user","content":[{"text":"x"}]}]}`, `{"messages":[{"role":"user","content":[{"type":"text","text":"x","more":1}]}]}`,
		`{"messages":[{"role":"user","content":"x","tool_calls":[{"function":{"name":"f","arguments":{}}}]}]}`,
		`{"messages":[{"role":"assistant","tool_calls":[{"function":{"name":"f","arguments":"{"}}]}]}`,
		`{"messages":[{"role":"assistant","tool_calls":[{"function":{"name":"f","arguments":3}}]}]}`,
		`{"messages":[{"role":"assistant","tool_calls":[{"function":"f"}]}]}`,
		`{"messages":[{"role":"assistant","content":"x","function_call":{}}]}`,
		`{"messages":[{"role":"user","content":"x"}],"tools":[{"type":"retrieval"}]}`, `{"messages":[{"role":"user","content":"x"}],"tools":["f"]}`,
		`{"messages":[{"role":"user","content":"x"}],"top_logprobs":1}`, `{"messages":[{"role":"user","content":"x"}],"max_tokens":1,"max_completion_tokens":2}`,
		`{"messages":[{"role":"user","content":"x"}],"max_tokens":0}`, `{"messages":[{"role":"user","content":` + long + `}]}`,
		`{"messages":[{"role":"user","content":"x"}],"max_tokens":600}`,
		`{"messages":[{"role":"user","content":"x"}],"continue_final_message":true,"add_generation_prompt":true}`,
		`{"messages":[{"role":"user","content":"x"}],"chat_template":"{{ x }}"}`, `{"messages":[{"role":"user","content":"x"}],"chat_template_kwargs":[]}`,
		`{"messages":[{"role":"user","content":"x"}],"prompt":"y"}`,
		`{"messages":[{"role":"user","content":"x"}],"documents":[{"text":"y"}]}`, `{"messages":[{"role":"user","content":"x"}],"reasoning_effort":"high"}`, `{"messages":[{"role":"user","content":"x"}],"tool_choice":"auto"}`,
	} {
		w := ask(t, s, http.MethodPost, "/v1/chat/completions", body)
		require.GreaterOrEqual(t, w.Code, 400, body)
		fmt.Fprintf(&got, "> %s\n%d %s\n", shown(body), w.Code, w.Body)
	}
	golden.File(t, "refusals.txt", got.String())
}

func shown(s string) string {
	if len(s) > 200 {
		return s[:60] + "…" + s[len(s)-20:]
	}
	return fmt.Sprintf("%+q", s)[1 : len(fmt.Sprintf("%+q", s))-1]
}

// TestEverythingIsKnown: no field of OpenAI's own client is unknown to us: it is
// taken, or refused by name.
func TestEverythingIsKnown(t *testing.T) {
	cfg := config(enginetest.New())
	cfg.Strict = true
	s := api.NewServer(cfg)
	for path, request := range map[string]struct {
		fields []string
		rest   string
	}{
		"/v1/completions":      {openAICompletionFields(), `"prompt":"x"`},
		"/v1/chat/completions": {openAIChatFields(), `"messages":[{"role":"user","content":"x"}]`},
	} {
		for _, field := range request.fields {
			if strings.HasPrefix(request.rest, `"`+field+`"`) {
				continue
			}
			w := ask(t, s, http.MethodPost, path, fmt.Sprintf(`{%s,%q:{"a":"b"}}`, request.rest, field))
			require.NotContains(t, w.Body.String(), `"unknown field: `+field+`"`)
		}
	}
}
