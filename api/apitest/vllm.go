package apitest

import (
	"io"
	"net/http"
	"regexp"
	"strconv"
	"testing"

	"github.com/openai/openai-go/v3/option"
	"github.com/stretchr/testify/require"
)

// tokens is the answer of /tokenize.
type tokens struct {
	Count       int      `json:"count"`
	MaxModelLen int      `json:"max_model_len"`
	Tokens      []int64  `json:"tokens"`
	TokenStrs   []string `json:"token_strs"`
}

// post sends a request to a path outside /v1.
func (s *suite) post(t *testing.T, path string, body, answer any) error {
	t.Helper()
	return s.client.Post(begin(t), path, body, answer, option.WithBaseURL(s.URL+"/"))
}

func (s *suite) detokenize(t *testing.T, ids []int64) string {
	t.Helper()
	var answer struct {
		Prompt string `json:"prompt"`
	}
	require.NoError(t, s.post(t, "detokenize", map[string]any{"model": s.Model, "tokens": ids}, &answer))
	return answer.Prompt
}

func (s *suite) context(t *testing.T) int {
	t.Helper()
	var answer tokens
	require.NoError(t, s.post(t, "tokenize", map[string]any{"prompt": s.Prompt}, &answer))
	return answer.MaxModelLen
}

// tokenize: a text's tokens decode to the text, and are those that a completion
// of it has.
func (s *suite) tokenize(t *testing.T) {
	var plain, whole tokens
	body := map[string]any{"model": s.Model, "prompt": s.Prompt, "add_special_tokens": false, "return_token_strs": true}
	require.NoError(t, s.post(t, "tokenize", body, &plain))
	require.Len(t, plain.Tokens, plain.Count)
	require.Len(t, plain.TokenStrs, plain.Count)
	require.Equal(t, s.Prompt, s.detokenize(t, plain.Tokens))

	require.NoError(t, s.post(t, "tokenize", map[string]any{"prompt": s.Prompt}, &whole))
	_, ids := s.withIDs(t)
	require.Equal(t, ids.PromptTokenIDs, whole.Tokens)

	refuse(t, s.post(t, "detokenize", map[string]any{"tokens": []int{-1}}, nil), 400, "tokens", "")
	if s.Chat {
		messages := []map[string]string{{"role": "user", "content": s.Prompt}}
		require.NoError(t, s.post(t, "tokenize", map[string]any{"messages": messages}, &whole))
		require.EqualValues(t, s.converse(t, s.conversation()).Usage.PromptTokens, whole.Count)
	}
}

var runningLine = regexp.MustCompile(`(?m)^vllm:num_requests_(?:running|waiting)\S* ([0-9.e+]+)$`)

// scrapeRunning is how many sequences run or wait, by /metrics.
func (s *suite) scrapeRunning(t *testing.T) int {
	t.Helper()
	request, err := http.NewRequestWithContext(begin(t), http.MethodGet, s.URL+"/metrics", nil)
	require.NoError(t, err)
	response, err := http.DefaultClient.Do(request)
	require.NoError(t, err)
	defer func() { _ = response.Body.Close() }()
	text, err := io.ReadAll(response.Body)
	require.NoError(t, err)
	lines := runningLine.FindAllStringSubmatch(string(text), -1)
	require.Len(t, lines, 2, "/metrics does not tell what runs and waits")
	sum := 0.0
	for _, line := range lines {
		n, err := strconv.ParseFloat(line[1], 64)
		require.NoError(t, err)
		sum += n
	}
	return int(sum)
}
