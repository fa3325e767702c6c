package api_test

import (
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/tandem-moe/tandem/api/apitest"
	"github.com/tandem-moe/tandem/model/gopher"
	"github.com/tandem-moe/tandem/model/tokenizer"
	"github.com/tandem-moe/tandem/serve"
	"github.com/tandem-moe/tandem/serve/completion"
	"github.com/tandem-moe/tandem/serve/completion/enginetest"
)

// TestOpenAIClient runs the suite that a real engine has to pass on the fake one.
func TestOpenAIClient(t *testing.T) {
	for _, chat := range []bool{true, false} {
		e := enginetest.New()
		cfg := config(e)
		cfg.APIKeys = []string{"secret"}
		cfg.NewID = nil // the suite's requests come at once
		if !chat {
			cfg.Template = nil
		}
		apitest.Run(t, apitest.Target{
			URL: "http://" + start(t, cfg), Model: "fake", APIKey: "secret",
			Prompt: "Say hello, héllo:", Tokens: 31, Chat: chat, Running: e.Running,
		})
	}
}

// TestOpenAIClientOnRealTokens runs the suite on a real tokenizer, whose tokens
// are words and pieces of characters; the engine is still the fake one.
func TestOpenAIClientOnRealTokens(t *testing.T) {
	model, err := tokenizer.LoadFS(gopher.Files())
	require.NoError(t, err)
	e := enginetest.New()
	e.Bounds.Vocabulary = model.VocabSize()
	code, err := model.Encode(t.Context(), "// Größe says 世界 🙂 to the world.\nfunc Größe(世 int) string {\n\treturn \"🙂\"\n}\n", false)
	require.NoError(t, err)
	e.Script = func(r serve.Request) []int32 {
		if r.Sampling.Temperature == 0 {
			return code
		}
		ids := enginetest.Sample(r)
		for i := range ids {
			ids[i] = (ids[i]*2654435 + int32(i)*7919) % int32(model.VocabSize())
		}
		return ids
	}
	cfg := config(e)
	cfg.NewID = nil
	cfg.Service = completion.New(completion.Config{Engine: e, Tokenizer: completion.Of(model)})
	apitest.Run(t, apitest.Target{
		URL: "http://" + start(t, cfg), Model: "fake",
		Prompt: "package größe // 世界\n", Tokens: len(code), Chat: true, Running: e.Running,
	})
}
