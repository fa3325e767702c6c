// Package apitest checks a server through OpenAI's own Go client, whatever model
// it serves: what it expects follows from other answers of the same server, not
// from a script. It may not know how the server is made.
package apitest

import (
	"context"
	"net/http"
	"testing"
	"time"

	"github.com/openai/openai-go/v3"
	"github.com/openai/openai-go/v3/option"
	"github.com/stretchr/testify/require"
)

// Target is a server, and what is to be known of it.
type Target struct {
	// URL is the server's, without /v1.
	URL string
	// Model is the name to ask for.
	Model  string
	APIKey string
	// Prompt is a text that the model continues, greedily, with Tokens tokens or
	// more before it ends. Tokens is 8 or more.
	Prompt string
	Tokens int
	// Chat says whether the model has a chat template.
	Chat bool
	// Running is how many sequences the engine has; nil: /metrics is asked.
	Running func() int
}

// timeout bounds each test against the server.
const timeout = time.Minute

// suite is a target with a client for it.
type suite struct {
	Target
	client openai.Client
}

// Run checks a server.
func Run(t *testing.T, target Target) {
	transport := &http.Transport{}
	t.Cleanup(transport.CloseIdleConnections)
	s := &suite{Target: target, client: openai.NewClient(
		option.WithBaseURL(target.URL+"/v1/"), option.WithAPIKey(target.APIKey), option.WithMaxRetries(0),
		option.WithHTTPClient(&http.Client{Transport: transport}),
	)}
	tests := map[string]func(*testing.T){
		"models":              s.models,
		"completion":          s.completion,
		"stream":              s.stream,
		"stop":                s.stop,
		"seed":                s.seed,
		"choices":             s.choices,
		"prompts":             s.prompts,
		"token ids":           s.tokenIDs,
		"logprobs":            s.logprobs,
		"echo":                s.echo,
		"tokenize":            s.tokenize,
		"unknown model":       s.unknownModel,
		"over-long prompt":    s.longPrompt,
		"refused fields":      s.refusedFields,
		"cancellation":        s.cancellation,
		"chat":                s.chat,
		"chat stream":         s.chatStream,
		"chat logprobs":       s.chatLogprobs,
		"chat choices":        s.chatChoices,
		"chat refused fields": s.chatRefusedFields,
	}
	for name, test := range tests {
		t.Run(name, test)
	}
}

// begin bounds a test.
func begin(t *testing.T) context.Context {
	ctx, cancel := context.WithTimeout(t.Context(), timeout)
	t.Cleanup(cancel)
	return ctx
}

// greedy asks for the target's continuation.
func (s *suite) greedy() openai.CompletionNewParams {
	return openai.CompletionNewParams{
		Model:       openai.CompletionNewParamsModel(s.Model),
		Prompt:      openai.CompletionNewParamsPromptUnion{OfString: openai.String(s.Prompt)},
		Temperature: openai.Float(0),
		MaxTokens:   openai.Int(int64(s.Tokens)),
	}
}

// sampled asks for a random one, of a seed.
func (s *suite) sampled(seed int64) openai.CompletionNewParams {
	p := s.greedy()
	p.Temperature, p.Seed = openai.Float(1.5), openai.Int(seed)
	return p
}

// complete sends a request, with fields that the client does not know in pairs of
// a name and a value.
func (s *suite) complete(t *testing.T, p openai.CompletionNewParams, fields ...any) *openai.Completion {
	t.Helper()
	answer, err := s.client.Completions.New(begin(t), p, set(fields)...)
	require.NoError(t, err)
	require.NotEmpty(t, answer.Choices)
	return answer
}

func set(fields []any) []option.RequestOption {
	var options []option.RequestOption
	for i := 0; i < len(fields); i += 2 {
		options = append(options, option.WithJSONSet(fields[i].(string), fields[i+1]))
	}
	return options
}

// refuse expects an error, whose message has all the words.
func refuse(t *testing.T, err error, status int, param, code string, words ...string) {
	t.Helper()
	var e *openai.Error
	require.ErrorAs(t, err, &e)
	require.Equal(t, status, e.StatusCode, e.Message)
	require.Equal(t, param, e.Param, e.Message)
	require.Equal(t, code, e.Code, e.Message)
	require.NotEmpty(t, e.Message)
	for _, w := range words {
		require.Contains(t, e.Message, w)
	}
}

// idle waits until the engine has nothing to do.
func (s *suite) idle(t *testing.T) {
	t.Helper()
	running := s.Running
	if running == nil {
		running = func() int { return s.scrapeRunning(t) }
	}
	require.Eventually(t, func() bool { return running() == 0 }, 5*time.Second, 10*time.Millisecond,
		"sequences are still running")
}
