package api_test

import (
	"bytes"
	"encoding/json"
	"io"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/tandem-moe/tandem/api"
	"github.com/tandem-moe/tandem/serve/completion/enginetest"
)

// exchange sends a request with headers, given in pairs.
func exchange(t *testing.T, s *api.Server, method, path string, body io.Reader,
	headers ...string) *httptest.ResponseRecorder {
	t.Helper()
	r := httptest.NewRequestWithContext(t.Context(), method, path, body)
	for i := 0; i < len(headers); i += 2 {
		r.Header.Set(headers[i], headers[i+1])
	}
	w := httptest.NewRecorder()
	s.ServeHTTP(w, r)
	return w
}

// TestCORS: which pages may use the server.
func TestCORS(t *testing.T) {
	const page = "https://example.com"
	for _, c := range []struct {
		name    string
		keys    []string
		origins []string
		want    string // Access-Control-Allow-Origin
	}{
		{"without keys any page may", nil, nil, "*"},
		{"with keys none may", []string{"k"}, nil, ""},
		{"those that are named may", []string{"k"}, []string{"https://other.example", page}, page},
		{"others may not", nil, []string{"https://other.example"}, ""},
		{"any page may where that is said", []string{"k"}, []string{api.Anywhere}, "*"},
		{"no page may where that is said", nil, []string{}, ""},
	} {
		t.Run(c.name, func(t *testing.T) {
			cfg := config(enginetest.New())
			cfg.APIKeys, cfg.AllowOrigins = c.keys, c.origins
			s := api.NewServer(cfg)
			asked := exchange(t, s, "OPTIONS", "/v1/chat/completions", nil, "Origin", page,
				"Access-Control-Request-Method", "POST",
				"Access-Control-Request-Headers", "authorization,content-type,x-stainless-os")
			answered := exchange(t, s, "POST", "/v1/completions", strings.NewReader(prompt), "Origin", page,
				"Authorization", "Bearer k")
			require.Equal(t, 200, answered.Code)
			for _, h := range []http.Header{asked.Header(), answered.Header()} {
				require.Equal(t, c.want, h.Get("Access-Control-Allow-Origin"))
			}
			if c.want == "" {
				require.Equal(t, 403, asked.Code)
				require.Contains(t, errorOf(t, asked.Body).Message, page)
				return
			}
			require.Equal(t, 204, asked.Code)
			require.Equal(t, "authorization,content-type,x-stainless-os",
				asked.Header().Get("Access-Control-Allow-Headers"))
			require.Contains(t, asked.Header().Get("Access-Control-Allow-Methods"), "POST")
			require.Contains(t, answered.Header().Get("Access-Control-Expose-Headers"), "X-Request-Id")
		})
	}
	s := api.NewServer(config(enginetest.New()))
	require.Empty(t, exchange(t, s, "GET", "/health", nil).Header().Get("Access-Control-Allow-Origin"))
	require.Equal(t, 405, exchange(t, s, "OPTIONS", "/v1/completions", nil).Code)
	odd := exchange(t, s, "OPTIONS", "/", nil, "Origin", page, "Access-Control-Request-Method", "GET",
		"Access-Control-Request-Headers", "a\x01b")
	require.NotContains(t, odd.Header().Get("Access-Control-Allow-Headers"), "\x01")
}

// TestPackedBodies: bodies in gzip's format work, and do no harm.
func TestPackedBodies(t *testing.T) {
	whole := zippedBytes(prompt)
	bomb := zippedBytes(`{"prompt":"` + strings.Repeat("x", 4<<20) + `"}`)
	large := zippedBytes(`{"prompt":"` + strings.Repeat("x", 9<<20) + `"}`)
	for _, c := range []struct {
		name, encoding string
		body           []byte
		status         int
		code           string
	}{
		{"gzip", "gzip", whole, 200, ""},
		{"gzip's old name", "X-GZIP", whole, 200, ""},
		{"as it is", "identity", []byte(prompt), 200, ""},
		{"not gzip", "gzip", []byte(prompt), 400, ""},
		{"half of it", "gzip", whole[:len(whole)/2], 400, ""},
		{"a checksum that differs", "gzip", append(bytes.Clone(whole[:len(whole)-8]), 1, 2, 3, 4, 5, 6, 7, 8), 400, ""},
		{"a bomb", "gzip", bomb, 413, "request_too_large"},
		{"too large when unpacked", "gzip", large, 413, "request_too_large"},
		{"another encoding", "br", whole, 415, "unsupported_content_encoding"},
		{"two encodings", "gzip, gzip", whole, 415, "unsupported_content_encoding"},
	} {
		t.Run(c.name, func(t *testing.T) {
			s := api.NewServer(config(enginetest.New()))
			w := exchange(t, s, "POST", "/v1/completions", bytes.NewReader(c.body), "Content-Encoding", c.encoding)
			require.Equal(t, c.status, w.Code, w.Body)
			if c.status == 200 {
				return
			}
			e := errorOf(t, w.Body)
			if c.code != "" {
				require.Equal(t, c.code, *e.Code)
			} else {
				require.Contains(t, e.Message, "gzip")
			}
		})
	}
}

// TestAccessLog: what a line says.
func TestAccessLog(t *testing.T) {
	type line struct {
		Level, Msg, Method, Path, Client, ID, Error string
		Status                                      int
		PromptTokens                                *int     `json:"prompt_tokens"`
		OutputTokens                                *int     `json:"output_tokens"`
		FirstToken                                  *float64 `json:"first_token_ms"`
		Duration                                    *float64 `json:"duration_ms"`
	}
	var level slog.LevelVar
	logged := func(t *testing.T, change func(*api.Config, *enginetest.Engine), method, path, body string) *line {
		t.Helper()
		var log bytes.Buffer
		e := enginetest.New()
		cfg := config(e)
		cfg.Log = slog.New(slog.NewJSONHandler(&log, &slog.HandlerOptions{Level: &level}))
		if change != nil {
			change(&cfg, e)
		}
		func() {
			defer func() { _ = recover() }() // a stream that breaks off
			exchange(t, api.NewServer(cfg), method, path, strings.NewReader(body), "X-Request-Id", "mine")
		}()
		for text := range strings.Lines(log.String()) {
			var l line
			require.NoError(t, json.Unmarshal([]byte(text), &l))
			if l.Msg == "request" {
				return &l
			}
		}
		return nil
	}
	for _, body := range []string{prompt, streamed} {
		l := logged(t, nil, "POST", "/v1/completions", body)
		require.NotNil(t, l)
		require.Equal(t, []any{"INFO", "POST", "/v1/completions", "mine", 200, 3, 8},
			[]any{l.Level, l.Method, l.Path, l.ID, l.Status, *l.PromptTokens, *l.OutputTokens})
		require.NotEmpty(t, l.Client)
		require.LessOrEqual(t, *l.FirstToken, *l.Duration)
	}
	l := logged(t, nil, "POST", "/v1/completions", `{}`)
	require.Equal(t, 400, l.Status)
	require.Nil(t, l.PromptTokens)
	l = logged(t, func(_ *api.Config, e *enginetest.Engine) {
		e.Break(enginetest.Fault{After: 2, Err: io.ErrClosedPipe})
	}, "POST", "/v1/completions", streamed)
	require.Equal(t, 200, l.Status)
	require.Contains(t, l.Error, "closed pipe")
	require.Equal(t, 2, *l.OutputTokens)
	l = logged(t, nil, "GET", "/"+strings.Repeat("x", 5000), "")
	require.Equal(t, 404, l.Status)
	require.Less(t, len(l.Path), 100)
	require.Nil(t, logged(t, nil, "GET", "/health", ""), "a probe is logged")
	l = logged(t, func(c *api.Config, _ *enginetest.Engine) {
		level.Set(slog.LevelDebug)
		c.Metrics = http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { _, _ = io.WriteString(w, "x 1\n") })
	}, "GET", "/metrics", "")
	require.Equal(t, []any{"DEBUG", 200}, []any{l.Level, l.Status}, "a handler that does not say so")
	require.Nil(t, logged(t, func(c *api.Config, _ *enginetest.Engine) { c.NoAccessLog = true }, "POST",
		"/v1/completions", prompt))
}

// TestEveryAnswerHasAnID: errors too.
func TestEveryAnswerHasAnID(t *testing.T) {
	s := api.NewServer(config(enginetest.New()))
	for _, path := range []string{"/", "/health", "/nowhere", "/v1/completions"} {
		require.NotEmpty(t, exchange(t, s, "GET", path, nil).Header().Get("X-Request-Id"))
		require.Equal(t, "mine", exchange(t, s, "GET", path, nil, "X-Request-Id", "mine").Header().Get("X-Request-Id"))
	}
	w := exchange(t, s, "POST", "/v1/completions", strings.NewReader(`{"prompt":"x","request_id":"theirs"}`),
		"X-Request-Id", "mine")
	require.Equal(t, "theirs", w.Header().Get("X-Request-Id"))
}

// TestHealthTellsWhatFails where requests are served all the same.
func TestHealthTellsWhatFails(t *testing.T) {
	c := config(enginetest.New())
	c.Failing = func() string { return "attention-1 cannot reach expert-0" }
	w := ask(t, api.NewServer(c), "GET", "/health", "")
	require.Equal(t, http.StatusOK, w.Code)
	require.JSONEq(t, `{"status":"ok","failing":"attention-1 cannot reach expert-0"}`, w.Body.String())
}
