package api_test

import (
	"encoding/json"
	"fmt"
	"math"
	"path/filepath"
	"slices"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/tandem-moe/tandem/api"
	"github.com/tandem-moe/tandem/api/apitest"
	"github.com/tandem-moe/tandem/internal/oracle"
	"github.com/tandem-moe/tandem/model"
	"github.com/tandem-moe/tandem/model/tokenizer"
	"github.com/tandem-moe/tandem/serve/completion"
	"github.com/tandem-moe/tandem/serve/completion/enginetest"
	"github.com/tandem-moe/tandem/serve/deploy"
)

// realConfig is a server's configuration over a model's own engine: two attention
// nodes and three expert nodes in this process. An empty folder is the embedded
// model.
func realConfig(t *testing.T, dir string) (api.Config, *deploy.Local) {
	t.Helper()
	m, err := deploy.OpenModel(dir)
	require.NoError(t, err)
	tokens, err := tokenizer.LoadFS(m.Files)
	require.NoError(t, err)
	defaults, err := model.ReadGeneration(m.Files, m.Spec)
	require.NoError(t, err)
	local, err := deploy.StartLocal(t.Context(), m, deploy.Options{Attention: 2, Experts: 3, MicroBatches: 2}, nil)
	require.NoError(t, err)
	t.Cleanup(func() {
		require.NoError(t, local.Close())
		require.NoError(t, m.Checkpoint.Close())
	})
	cfg := config(enginetest.New())
	cfg.NewID, cfg.Defaults = nil, defaults
	cfg.Service = completion.New(completion.Config{
		Engine: local.Engine, Tokenizer: completion.Of(tokens), EOS: m.Spec.Ends(defaults),
	})
	return cfg, local
}

// TestOpenAIClientOnGopher runs the suite on the embedded model.
func TestOpenAIClientOnGopher(t *testing.T) {
	cfg, local := realConfig(t, "")
	apitest.Run(t, apitest.Target{
		URL: "http://" + start(t, cfg), Model: "fake", Chat: true,
		Prompt: "package main\n\nimport \"fmt\"\n\n// héllo\nfunc main() {\n", Tokens: 24,
		Running: func() int { return local.Engine.Counts().Requests },
	})
}

// answerOf asks for completions, and reads what a test needs of them.
func answerOf(t *testing.T, s *api.Server, request map[string]any) (answer struct {
	Choices []struct {
		Text     string  `json:"text"`
		TokenIDs []int32 `json:"token_ids"`
		Logprobs struct {
			TokenLogprobs []*float64           `json:"token_logprobs"`
			TopLogprobs   []map[string]float64 `json:"top_logprobs"`
		} `json:"logprobs"`
	} `json:"choices"`
}) {
	t.Helper()
	body, err := json.Marshal(request)
	require.NoError(t, err)
	w := ask(t, s, "POST", "/v1/completions", string(body))
	require.Equal(t, 200, w.Code, w.Body)
	require.NoError(t, json.Unmarshal(w.Body.Bytes(), &answer))
	return answer
}

// TestGopherContinues: texts go in, and Hugging Face's continuations come out.
func TestGopherContinues(t *testing.T) {
	cfg, _ := realConfig(t, "")
	s := api.NewServer(cfg)
	for _, want := range oracle.Gopher(t) {
		got := answerOf(t, s, map[string]any{
			"prompt": want.Prompt, "temperature": 0, "max_tokens": len(want.Greedy), "return_token_ids": true,
		}).Choices[0]
		require.Equal(t, want.Greedy, got.TokenIDs)
		require.Equal(t, want.Text, got.Text)
	}
}

// TestParity: through the API, all of a model's reference prompts in one request
// are continued as Hugging Face continues them, and the log-probabilities of
// their own tokens are Hugging Face's.
func TestParity(t *testing.T) {
	for _, dir := range oracle.Models(t, model.Mixtral, model.Qwen3MoE, model.OLMoE) {
		t.Run(filepath.Base(dir), func(t *testing.T) {
			reference := oracle.Load(t, dir)
			cfg, _ := realConfig(t, dir)
			s := api.NewServer(cfg)
			greedy := answerOf(t, s, map[string]any{
				"prompt": reference.Prompts, "temperature": 0, "ignore_eos": true, "return_token_ids": true,
				"max_tokens": len(reference.Greedy[0].Tokens),
				// Of a checkpoint's defaults this one bears on greedy choices too, and
				// the reference has none.
				"repetition_penalty": 1,
			})
			for _, want := range reference.Greedy {
				require.Equal(t, want.Tokens, greedy.Choices[want.Prompt].TokenIDs)
			}
			echoed := answerOf(t, s, map[string]any{
				"prompt": reference.Prompts, "echo": true, "max_tokens": 0, "logprobs": 3,
				"return_tokens_as_token_ids": true,
			})
			for p, prompt := range reference.Prompts {
				logits := reference.Logits(t, p)
				got := echoed.Choices[p].Logprobs
				require.Len(t, got.TokenLogprobs, len(prompt))
				require.Nil(t, got.TokenLogprobs[0])
				for i := 1; i < len(prompt); i++ {
					want := logSoftmax(logits.Row(i - 1))
					require.InDelta(t, want[prompt[i]], *got.TokenLogprobs[i], 2e-4)
					requireTop(t, want, got.TopLogprobs[i], 3)
				}
			}
		})
	}
}

// requireTop: the best candidates are the reference's, unless two are too close
// to tell.
func requireTop(t *testing.T, want []float64, got map[string]float64, top int) {
	t.Helper()
	least := slices.Sorted(slices.Values(want))[len(want)-top]
	better := 0
	for name, logprob := range got {
		var id int
		_, err := fmt.Sscanf(name, "token_id:%d", &id)
		require.NoError(t, err)
		require.InDelta(t, want[id], logprob, 2e-4)
		if want[id] >= least-2e-4 {
			better++
		}
	}
	require.GreaterOrEqual(t, better, top)
}

// logSoftmax is the slow, obvious one.
func logSoftmax(logits []float32) []float64 {
	most := float64(slices.Max(logits))
	sum := 0.0
	for _, l := range logits {
		sum += math.Exp(float64(l) - most)
	}
	out := make([]float64, len(logits))
	for i, l := range logits {
		out[i] = float64(l) - most - math.Log(sum)
	}
	return out
}
