package main

import (
	"bufio"
	"encoding/json"
	"io"
	"net/http"
	"regexp"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

// client is a user of the API.
type client struct {
	t        *testing.T
	url, key string
}

// object is a JSON object.
type object map[string]any

// send sends a request, and returns the answer, whose body the caller closes.
func (c client) send(method, path string, body any) *http.Response {
	c.t.Helper()
	text, err := json.Marshal(body)
	require.NoError(c.t, err)
	r, err := http.NewRequestWithContext(c.t.Context(), method, c.url+path, strings.NewReader(string(text)))
	require.NoError(c.t, err)
	r.Header.Set("Content-Type", "application/json")
	if c.key != "" {
		r.Header.Set("Authorization", "Bearer "+c.key)
	}
	response, err := (&http.Client{Timeout: patience}).Do(r)
	require.NoError(c.t, err)
	return response
}

// get returns the status and the text of an answer.
func (c client) get(path string) (int, string) {
	c.t.Helper()
	return c.read(c.send("GET", path, nil))
}

// post returns the status and the text of an answer.
func (c client) post(path string, body any) (int, string) {
	c.t.Helper()
	return c.read(c.send("POST", path, body))
}

func (c client) read(r *http.Response) (int, string) {
	c.t.Helper()
	defer r.Body.Close()
	text, err := io.ReadAll(r.Body)
	require.NoError(c.t, err)
	return r.StatusCode, string(text)
}

// answer is what tests read of a completion.
type answer struct {
	Choices []struct {
		Text         string  `json:"text"`
		TokenIDs     []int32 `json:"token_ids"`
		FinishReason string  `json:"finish_reason"`
	} `json:"choices"`
}

// greedy continues a prompt, text or ids, by so many tokens.
func (c client) greedy(model string, prompt any, tokens int) answer {
	c.t.Helper()
	status, text := c.post("/v1/completions", object{
		"model": model, "prompt": prompt, "max_tokens": tokens, "temperature": 0, "ignore_eos": true,
		"return_token_ids": true,
	})
	require.Equal(c.t, http.StatusOK, status, text)
	var got answer
	require.NoError(c.t, json.Unmarshal([]byte(text), &got))
	require.Len(c.t, got.Choices, 1)
	return got
}

// healthy waits until the server takes requests.
func (c client) healthy() {
	c.t.Helper()
	var text string
	require.Eventually(c.t, func() bool {
		var status int
		status, text = c.get("/health")
		return status == http.StatusOK
	}, patience, 20*time.Millisecond, "%s", &text)
}

// metric is the sum of a metric's values over its labels.
func (c client) metric(name string) float64 {
	c.t.Helper()
	status, text := c.get("/metrics")
	require.Equal(c.t, http.StatusOK, status)
	lines := regexp.MustCompile(`(?m)^`+name+`(?:{[^}]*})? (\S+)$`).FindAllStringSubmatch(text, -1)
	require.NotEmpty(c.t, lines, "no metric %s", name)
	sum := 0.0
	for _, l := range lines {
		value, err := strconv.ParseFloat(l[1], 64)
		require.NoError(c.t, err)
		sum += value
	}
	return sum
}

// stream is an answer under way.
type stream struct {
	t     *testing.T
	lines *bufio.Scanner
}

// stream asks for a long completion and waits for its first token.
func (c client) stream(model string, tokens int) *stream {
	c.t.Helper()
	r := c.send("POST", "/v1/completions", object{
		"model": model, "prompt": "func main() {\n", "max_tokens": tokens, "temperature": 0, "ignore_eos": true,
		"stream": true,
	})
	require.Equal(c.t, http.StatusOK, r.StatusCode)
	s := &stream{c.t, bufio.NewScanner(r.Body)}
	c.t.Cleanup(func() { r.Body.Close() })
	for s.lines.Scan() {
		if strings.HasPrefix(s.lines.Text(), "data: ") {
			return s
		}
	}
	c.t.Fatalf("no token: %v", s.lines.Err())
	return s
}

// rest reads the stream to its end, and returns its last event but "[DONE]".
func (s *stream) rest() answer {
	s.t.Helper()
	var last answer
	for s.lines.Scan() {
		data, is := strings.CutPrefix(s.lines.Text(), "data: ")
		if !is {
			continue
		}
		if data == "[DONE]" {
			return last
		}
		last = answer{}
		require.NoError(s.t, json.Unmarshal([]byte(data), &last))
	}
	s.t.Fatalf("the stream ends without [DONE]: %v", s.lines.Err())
	return last
}
