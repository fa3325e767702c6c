package api_test

import (
	"math"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/tandem-moe/tandem/api"
	"github.com/tandem-moe/tandem/model"
	"github.com/tandem-moe/tandem/serve"
	"github.com/tandem-moe/tandem/serve/completion/enginetest"
	"github.com/tandem-moe/tandem/serve/sample"
)

func ptr[T any](v T) *T { return &v }

// submitted is what the engine is asked for.
func submitted(t *testing.T, d model.GenerationDefaults, path, body string) serve.Request {
	t.Helper()
	e := enginetest.New()
	cfg := config(e)
	cfg.Defaults = d
	w := ask(t, api.NewServer(cfg), "POST", path, body)
	require.Equal(t, 200, w.Code, w.Body)
	return e.Requests()[0]
}

// TestSampling: a request's own parameters, over the checkpoint's, over
// OpenAI's.
func TestSampling(t *testing.T) {
	checkpoint := model.GenerationDefaults{
		Temperature: ptr(0.6), TopP: ptr(0.9), TopK: ptr(20), MinP: ptr(0.05), RepetitionPenalty: ptr(1.1),
	}
	for _, c := range []struct {
		name     string
		defaults model.GenerationDefaults
		fields   string
		want     sample.Params
	}{
		{"OpenAI's", model.GenerationDefaults{}, ``, sample.Params{Temperature: 1, TopP: 1, RepetitionPenalty: 1}},
		{"the checkpoint's", checkpoint, ``, sample.Params{Temperature: 0.6, TopP: 0.9, TopK: 20, MinP: 0.05,
			RepetitionPenalty: 1.1}},
		{"the request's", checkpoint, `,"temperature":0,"top_p":0.5,"top_k":-1,"min_p":0,"repetition_penalty":1`,
			sample.Params{TopP: 0.5, RepetitionPenalty: 1}},
		{"a checkpoint that does not sample", model.GenerationDefaults{DoSample: ptr(false)}, ``,
			sample.Params{TopP: 1, RepetitionPenalty: 1}},
		{"top_p 0 is the best alone", model.GenerationDefaults{}, `,"top_p":0`,
			sample.Params{Temperature: 1, TopP: math.SmallestNonzeroFloat64, RepetitionPenalty: 1}},
		{"penalties and biases", model.GenerationDefaults{}, `,"presence_penalty":-1,"frequency_penalty":2,"logit_bias":{"5":-100,"6":3.5}`,
			sample.Params{Temperature: 1, TopP: 1, RepetitionPenalty: 1, PresencePenalty: -1, FrequencyPenalty: 2,
				LogitBias: map[int32]float64{5: -100, 6: 3.5}}},
	} {
		t.Run(c.name, func(t *testing.T) {
			got := submitted(t, c.defaults, "/v1/completions", `{"prompt":"x","seed":-1`+c.fields+`}`).Sampling
			c.want.Seed = math.MaxUint64
			require.Equal(t, c.want, got)
		})
	}
}

// TestBudgets: how many tokens an output may have.
func TestBudgets(t *testing.T) {
	const text, chat = "/v1/completions", "/v1/chat/completions"
	const messages = `"messages":[{"role":"user","content":"x"}]`
	long := model.GenerationDefaults{MaxNewTokens: ptr(9999)}
	short := model.GenerationDefaults{MaxNewTokens: ptr(7)}
	none := model.GenerationDefaults{}
	prompt := len(submitted(t, none, chat, `{`+messages+`}`).Prompt)
	for _, c := range []struct {
		name, path, body string
		defaults         model.GenerationDefaults
		want             int
	}{
		{"completions: 16", text, `{"prompt":"x"}`, none, 16},
		{"completions: 16 whatever the checkpoint says", text, `{"prompt":"x"}`, short, 16},
		{"completions: null is 16", text, `{"prompt":"x","max_tokens":null}`, none, 16},
		{"completions: asked", text, `{"prompt":"x","max_tokens":3}`, none, 3},
		{"completions: 16 as far as it fits", text, `{"prompt":[` + repeated("1,", 504) + `1]}`, none, 7},
		{"chat: what fits", chat, `{` + messages + `}`, none, 512 - prompt},
		{"chat: the checkpoint's", chat, `{` + messages + `}`, short, 7},
		{"chat: the checkpoint's as far as it fits", chat, `{` + messages + `}`, long, 512 - prompt},
		{"chat: asked", chat, `{` + messages + `,"max_tokens":9}`, short, 9},
		{"chat: asked by the new name", chat, `{` + messages + `,"max_completion_tokens":9}`, short, 9},
	} {
		t.Run(c.name, func(t *testing.T) {
			require.Equal(t, c.want, submitted(t, c.defaults, c.path, c.body).MaxTokens)
		})
	}
}

func repeated(s string, n int) (out string) {
	for range n {
		out += s
	}
	return out
}

// TestStopping: the model's own ids end an output, and the request's.
func TestStopping(t *testing.T) {
	r := submitted(t, model.GenerationDefaults{}, "/v1/completions",
		`{"prompt":"x","stop_token_ids":[5,6],"min_tokens":2}`)
	require.Equal(t, []int32{5, 6, enginetest.EOS}, r.StopIDs)
	require.Equal(t, 2, r.MinTokens)
	r = submitted(t, model.GenerationDefaults{}, "/v1/completions", `{"prompt":"x","ignore_eos":true}`)
	require.Empty(t, r.StopIDs)
}

// TestLogprobsAsked: log-probabilities of a prompt are computed only for echo.
func TestLogprobsAsked(t *testing.T) {
	for body, want := range map[string][2]int{
		`{"prompt":"x"}`:                          {-1, -1},
		`{"prompt":"x","logprobs":0}`:             {0, -1},
		`{"prompt":"x","logprobs":5}`:             {5, -1},
		`{"prompt":"x","logprobs":5,"echo":true}`: {5, 5},
		`{"prompt":"x","echo":true}`:              {-1, -1},
	} {
		r := submitted(t, model.GenerationDefaults{}, "/v1/completions", body)
		require.Equal(t, want, [2]int{r.Logprobs, r.PromptLogprobs}, body)
	}
}
