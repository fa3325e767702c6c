package api_test

import (
	"testing"

	"github.com/tandem-moe/tandem/api/apitest"
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
