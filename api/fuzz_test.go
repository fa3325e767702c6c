package api_test

import (
	"bytes"
	"compress/gzip"
	"encoding/json"
	"net/http/httptest"
	"testing"

	"github.com/stretchr/testify/require"
	"golang.org/x/net/http/httpguts"

	"github.com/tandem-moe/tandem/api"
	"github.com/tandem-moe/tandem/serve/completion/enginetest"
)

// FuzzCompletionJSON: see fuzz.
func FuzzCompletionJSON(f *testing.F) {
	seed(f,
		`{"prompt":"a"}`, `{"prompt":["a","b"],"n":2,"max_tokens":0,"echo":true,"logprobs":5}`, `{"prompt":[1,2,3]}`,
		`{"prompt":[[1],[2,3]],"stop":["x"]}`,
		`{"model":"m","prompt":"\u00e9\ud83d\ude00","stream":true,"stream_options":{"include_usage":true},"seed":-5,"stop":"\n","temperature":0.5,"top_p":1e-3,"presence_penalty":-2,"frequency_penalty":2,"logit_bias":{"5":-100,"7":1.5},"user":"u","best_of":1}`,
		`{"prompt":"a","top_k":-1,"min_p":0.1,"repetition_penalty":1.5,"min_tokens":1,"stop_token_ids":[1,2],"ignore_eos":true,"include_stop_str_in_output":true,"skip_special_tokens":false,"add_special_tokens":false,"return_token_ids":true,"return_tokens_as_token_ids":true,"request_id":"r-1","response_format":{"type":"text"}}`,
	)
	f.Fuzz(func(t *testing.T, body []byte) { fuzz(t, body, (*api.Parser).Completion) })
}

// FuzzChatJSON: see fuzz.
func FuzzChatJSON(f *testing.F) {
	seed(f,
		`{"messages":[{"role":"user","content":"a"}]}`,
		`{"messages":[{"role":"system","content":[{"type":"text","text":"a"},{"type":"text","text":"b"}]},{"role":"assistant","content":null,"tool_calls":[{"id":"1","type":"function","function":{"name":"f","arguments":"{\"x\":[1,{}]}"}}]},{"role":"tool","tool_call_id":"1","content":"r"}],"tools":[{"type":"function","function":{"name":"f","parameters":{"type":"object"}}}],"tool_choice":"none"}`,
		`{"messages":[{"name":"n","content":"\"\\\/\b\f\n\r\t","role":"user"}],"logprobs":true,"top_logprobs":3,"max_completion_tokens":5,"n":2,"stream":true,"stream_options":{"continuous_usage_stats":true},"chat_template_kwargs":{"a":{"b":[null,true]}},"add_generation_prompt":false,"continue_final_message":true,"modalities":["text"],"metadata":{}}`,
		`{"messages":[{"role":"developer","content":"x","reasoning_content":"y","annotations":[]}],"max_tokens":3,"parallel_tool_calls":true}`,
	)
	f.Fuzz(func(t *testing.T, body []byte) { fuzz(t, body, (*api.Parser).Chat) })
}

// FuzzTokenizeJSON: see fuzz.
func FuzzTokenizeJSON(f *testing.F) {
	seed(f,
		`{"prompt":"a","add_special_tokens":false,"return_token_strs":true,"model":"m"}`,
		`{"messages":[{"role":"user","content":"a"}],"tools":[],"add_generation_prompt":true}`,
	)
	f.Fuzz(func(t *testing.T, body []byte) { fuzz(t, body, (*api.Parser).Tokenize) })
}

// seed adds whole documents, and their beginnings.
func seed(f *testing.F, documents ...string) {
	f.Helper()
	for _, d := range documents {
		f.Add([]byte(d))
		f.Add([]byte(d[:len(d)/2]))
		f.Add([]byte(d[:len(d)-1]))
	}
}

// fuzz: a parser takes memory in proportion to the body, fails with an *Error
// of status 400, and what it accepts, written anew, it reads as the same request.
func fuzz[T any](t *testing.T, body []byte, parse func(*api.Parser, []byte) (*T, error)) {
	before := heapAllocated()
	parser := &api.Parser{}
	request, err := parse(parser, body)
	require.Less(t, heapAllocated()-before, uint64(256<<10+100*len(body)))
	require.LessOrEqual(t, len(parser.Warnings()), 9)
	for _, text := range parser.Warnings() {
		require.True(t, httpguts.ValidHeaderFieldValue(text), text)
	}
	if err != nil {
		var e *api.Error
		require.ErrorAs(t, err, &e)
		require.Equal(t, 400, e.Status)
		require.NotEmpty(t, e.Message)
		return
	}
	again, err := json.Marshal(request)
	require.NoError(t, err)
	reread, err := parse(&api.Parser{Strict: true}, again)
	require.NoError(t, err, "%s", again)
	rewritten, err := json.Marshal(reread)
	require.NoError(t, err)
	require.Equal(t, string(again), string(rewritten))
}

// zippedBytes is a text in gzip's format.
func zippedBytes(text string) []byte {
	var b bytes.Buffer
	z := gzip.NewWriter(&b)
	_, _ = z.Write([]byte(text)) // a buffer takes all
	_ = z.Close()
	return b.Bytes()
}

// FuzzHTTP: whatever a client sends, packed or not, the answer is a completion or
// an error in OpenAI's format that blames the request.
func FuzzHTTP(f *testing.F) {
	bodies := []string{
		`{"prompt":"hi","max_tokens":2}`, `{"prompt":[[1],[2,3]],"n":2,"stream":true,"stop":["a",""],"max_tokens":3}`,
		`{"prompt":"hi","echo":true,"max_tokens":0,"logprobs":2,"truncate_prompt_tokens":1,"unknown":{}}`,
		`{"messages":[{"role":"user","content":[{"type":"text","text":"a","cache_control":{}}]}],"tools":[],"max_tokens":2,"reasoning_effort":"none"}`,
		`{"messages":[{"role":"assistant","content":"x"}],"continue_final_message":true,"stream":true,"max_tokens":2}`,
	}
	for i, body := range bodies {
		f.Add(uint8(i), "", []byte(body))
		f.Add(uint8(i), "gzip", zippedBytes(body))
		f.Add(uint8(i), "", []byte(body[:len(body)/2]))
	}
	paths := []string{"/v1/completions", "/v1/chat/completions", "/tokenize", "/detokenize"}
	f.Fuzz(func(t *testing.T, path uint8, encoding string, body []byte) {
		s := api.NewServer(config(enginetest.New()))
		r := httptest.NewRequestWithContext(t.Context(), "POST", paths[int(path)%len(paths)], bytes.NewReader(body))
		r.Header.Set("Content-Encoding", encoding)
		w := httptest.NewRecorder()
		s.ServeHTTP(w, r)
		if w.Code == 200 {
			require.Contains(t, []string{"application/json", "text/event-stream; charset=utf-8"},
				w.Header().Get("Content-Type"))
			return
		}
		require.GreaterOrEqual(t, w.Code, 400, w.Body)
		require.Less(t, w.Code, 500, w.Body)
		e := errorOf(t, w.Body)
		require.NotEmpty(t, e.Message)
		require.NotEmpty(t, e.Type)
	})
}
