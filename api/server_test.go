package api_test

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"runtime"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/tandem-moe/tandem/api"
	"github.com/tandem-moe/tandem/serve"
	"github.com/tandem-moe/tandem/serve/completion/enginetest"
)

const (
	prompt   = `{"prompt":"hi","temperature":0,"max_tokens":8}`
	streamed = `{"prompt":"hi","temperature":0,"max_tokens":8,"stream":true}`
)

// errorOf is the error in an answer.
func errorOf(t *testing.T, body io.Reader) (e struct {
	Message, Type string
	Param, Code   *string
}) {
	t.Helper()
	var document struct {
		Error *json.RawMessage `json:"error"`
	}
	require.NoError(t, json.NewDecoder(body).Decode(&document))
	require.NotNil(t, document.Error)
	require.NoError(t, json.Unmarshal(*document.Error, &e))
	return e
}

// reply is an answer over a socket, as far as it came.
type reply struct {
	status int
	header http.Header
	text   string
	// broken is why the text ends too early.
	broken error
}

// send sends a request on a connection of its own.
func send(ctx context.Context, method, address, path string, body io.Reader) (reply, error) {
	request, err := http.NewRequestWithContext(ctx, method, "http://"+address+path, body)
	if err != nil {
		return reply{}, err
	}
	request.Header.Set("Content-Type", "application/json")
	client := &http.Client{Transport: &http.Transport{DisableKeepAlives: true}, Timeout: 20 * time.Second}
	response, err := client.Do(request)
	if err != nil {
		return reply{}, err
	}
	defer response.Body.Close()
	text, err := io.ReadAll(response.Body)
	return reply{response.StatusCode, response.Header, string(text), err}, nil
}

func post(t *testing.T, address, path, body string) reply {
	t.Helper()
	r, err := send(t.Context(), http.MethodPost, address, path, strings.NewReader(body))
	require.NoError(t, err)
	return r
}

func get(t *testing.T, address, path string) reply {
	t.Helper()
	r, err := send(t.Context(), http.MethodGet, address, path, nil)
	require.NoError(t, err)
	return r
}

func dial(t *testing.T, address string) net.Conn {
	t.Helper()
	conn, err := (&net.Dialer{Timeout: 10 * time.Second}).DialContext(t.Context(), "tcp", address)
	require.NoError(t, err)
	t.Cleanup(func() { _ = conn.Close() })
	return conn
}

// TestEngineErrors: what an engine says becomes a status; in a stream, only what it
// says before it takes the request: the stream is open by then.
func TestEngineErrors(t *testing.T) {
	for _, c := range []struct {
		fault  enginetest.Fault
		status int
		retry  string
	}{
		{enginetest.Fault{Submit: &serve.BusyError{Waiting: 8, Limit: 8}}, 429, "1"},
		{enginetest.Fault{Submit: &serve.UnavailableError{Reason: "no expert node holds expert 3"}}, 503, "1"},
		{enginetest.Fault{Submit: &serve.InvalidError{Field: "Sampling.TopK", Reason: "no"}}, 400, ""},
		{enginetest.Fault{Err: &serve.UnavailableError{Reason: "attention node a1 was lost"}}, 503, "1"},
		{enginetest.Fault{Err: serve.ErrNotFinite}, 500, ""},
		{enginetest.Fault{Err: errors.New("broken")}, 500, ""},
		{enginetest.Fault{Err: io.EOF}, 500, ""},
	} {
		e := enginetest.New()
		e.Break(c.fault)
		s := api.NewServer(config(e))
		for _, body := range []string{prompt, streamed} {
			if body == streamed && c.fault.Submit == nil {
				continue
			}
			w := ask(t, s, "POST", "/v1/completions", body)
			require.Equal(t, c.status, w.Code, w.Body)
			require.Equal(t, c.retry, w.Header().Get("Retry-After"))
			require.NotEmpty(t, errorOf(t, w.Body).Message)
		}
		require.Zero(t, e.Running())
	}
}

// TestErrorInStream: once a stream is open an error is an event, and the connection
// closes without [DONE].
func TestErrorInStream(t *testing.T) {
	for _, after := range []int{0, 3} {
		e := enginetest.New()
		e.Break(enginetest.Fault{After: after, Err: &serve.UnavailableError{Reason: "attention node a1 was lost"}})
		r := post(t, start(t, config(e)), "/v1/completions", streamed)
		require.Equal(t, 200, r.status)
		require.ErrorIs(t, r.broken, io.ErrUnexpectedEOF)
		require.NotContains(t, r.text, "[DONE]")
		lines := strings.Split(strings.TrimSpace(r.text), "\n\n")
		require.Len(t, lines, after+2)
		require.Equal(t, ": waiting", lines[0])
		last, found := strings.CutPrefix(lines[after+1], "data: ")
		require.True(t, found)
		require.Contains(t, errorOf(t, strings.NewReader(last)).Message, "a1 was lost")
	}
}

// TestSilence: a stream begins at once, and is never silent for long; it goes on
// where its client reads comments alone, and ends where that has gone.
func TestSilence(t *testing.T) {
	e := enginetest.New()
	e.Break(enginetest.Fault{Hang: true})
	cfg := config(e)
	cfg.Limits.Silence, cfg.Limits.Grace = 20*time.Millisecond, time.Millisecond
	address := start(t, cfg)
	conn := dial(t, address)
	_, err := fmt.Fprintf(conn, "POST /v1/completions HTTP/1.1\r\nHost: x\r\nContent-Length: %d\r\n\r\n%s", len(streamed), streamed)
	require.NoError(t, err)
	require.NoError(t, conn.SetReadDeadline(time.Now().Add(20*time.Second)))
	response, err := http.ReadResponse(bufio.NewReader(conn), nil)
	require.NoError(t, err)
	defer response.Body.Close()
	require.Equal(t, 200, response.StatusCode)
	require.Equal(t, "text/event-stream; charset=utf-8", response.Header.Get("Content-Type"))
	lines := bufio.NewScanner(response.Body)
	for range 4 {
		require.True(t, lines.Scan())
		require.Equal(t, ": waiting", lines.Text())
		require.True(t, lines.Scan())
		require.Empty(t, lines.Text())
	}
	require.NoError(t, conn.Close())
	require.Eventually(t, func() bool { return e.Cancelled() == 1 }, 10*time.Second, time.Millisecond)
}

// TestDeadline: a request that takes too long ends with an error.
func TestDeadline(t *testing.T) {
	for _, after := range []int{0, 2} {
		e := enginetest.New()
		e.Break(enginetest.Fault{After: after, Hang: true})
		cfg := config(e)
		cfg.Limits.Request = 50 * time.Millisecond
		address := start(t, cfg)
		whole := post(t, address, "/v1/completions", prompt)
		require.Equal(t, 504, whole.status)
		require.Equal(t, "request_timeout", *errorOf(t, strings.NewReader(whole.text)).Code)

		stream := post(t, address, "/v1/completions", streamed)
		require.Contains(t, stream.text, "request_timeout")
		require.NotContains(t, stream.text, "[DONE]")
		require.Zero(t, e.Running())
	}
}

// TestClientLeaves: a client that hangs up cancels its request, streamed or not.
func TestClientLeaves(t *testing.T) {
	for _, body := range []string{prompt, streamed} {
		e := enginetest.New()
		e.Break(enginetest.Fault{After: 2, Hang: true})
		address := start(t, config(e))
		conn := dial(t, address)
		_, err := fmt.Fprintf(conn, "POST /v1/completions HTTP/1.1\r\nHost: x\r\nContent-Length: %d\r\n\r\n%s", len(body), body)
		require.NoError(t, err)
		require.Eventually(t, func() bool { return e.Running() == 1 }, 5*time.Second, time.Millisecond)
		require.NoError(t, conn.Close())
		require.Eventually(t, func() bool { return e.Running() == 0 }, time.Second, time.Millisecond)
		require.Equal(t, 1, e.Cancelled())
	}
}

// TestClientDoesNotRead: a client that stops reading is given up.
func TestClientDoesNotRead(t *testing.T) {
	e := enginetest.New()
	e.Bounds.MaxModelLen = 1 << 20
	e.Bounds.CacheTokens = 1 << 20
	cfg := config(e)
	cfg.Limits.Write = 50 * time.Millisecond
	conn := dial(t, start(t, cfg))
	body := `{"prompt":"hi","max_tokens":500000,"ignore_eos":true,"logprobs":20,"stream":true}`
	_, err := fmt.Fprintf(conn, "POST /v1/completions HTTP/1.1\r\nHost: x\r\nContent-Length: %d\r\n\r\n%s", len(body), body)
	require.NoError(t, err)
	require.Eventually(t, func() bool { return e.Cancelled() == 1 }, 10*time.Second, time.Millisecond)
}

// noise is n bytes of a JSON string that does not end.
func noise(n int64) io.Reader {
	return io.MultiReader(strings.NewReader(`{"prompt":"`), io.LimitReader(letters{}, n))
}

type letters struct{}

func (letters) Read(b []byte) (int, error) {
	for i := range b {
		b[i] = 'x'
	}
	return len(b), nil
}

// TestLargeBody: 100 MB are refused, whether announced or not, without being
// held.
func TestLargeBody(t *testing.T) {
	const size = 100 << 20
	address := start(t, config(enginetest.New()))
	for _, announced := range []bool{true, false} {
		request, err := http.NewRequestWithContext(t.Context(), "POST", "http://"+address+"/v1/completions",
			noise(size))
		require.NoError(t, err)
		request.Header.Set("Content-Type", "application/json")
		if announced {
			request.ContentLength = size + int64(len(`{"prompt":"`))
		}
		before := heapAllocated()
		client := &http.Client{Transport: &http.Transport{DisableKeepAlives: true}}
		response, err := client.Do(request)
		require.NoError(t, err)
		require.Equal(t, 413, response.StatusCode)
		require.Equal(t, "request_too_large", *errorOf(t, response.Body).Code)
		require.NoError(t, response.Body.Close())
		require.Less(t, heapAllocated()-before, uint64(size))
	}
}

// heapAllocated is all that was ever allocated, in bytes.
func heapAllocated() uint64 {
	var m runtime.MemStats
	runtime.ReadMemStats(&m)
	return m.TotalAlloc
}

// TestBodyBudget: bodies that are larger together than the budget are refused,
// and what was taken is given back.
func TestBodyBudget(t *testing.T) {
	cfg := config(enginetest.New())
	cfg.Limits.Body, cfg.Limits.Bodies = 1<<20, 64<<10
	s := api.NewServer(cfg)
	for range 3 {
		w := ask(t, s, "POST", "/v1/completions", `{"prompt":"`+strings.Repeat("x", 100<<10)+`"}`)
		require.Equal(t, 429, w.Code)
		require.Equal(t, "1", w.Header().Get("Retry-After"))
		require.Equal(t, 200, ask(t, s, "POST", "/v1/completions", prompt).Code)
	}
}

// TestSlowBody: a body that does not arrive ends in an answer.
func TestSlowBody(t *testing.T) {
	cfg := config(enginetest.New())
	cfg.Limits.ReadBody = 50 * time.Millisecond
	conn := dial(t, start(t, cfg))
	_, err := io.WriteString(conn, "POST /v1/completions HTTP/1.1\r\nHost: x\r\nContent-Length: 100\r\n\r\n{")
	require.NoError(t, err)
	response, err := http.ReadResponse(bufio.NewReader(conn), nil)
	require.NoError(t, err)
	require.Equal(t, 408, response.StatusCode)
	require.NoError(t, response.Body.Close())
}

// TestSilentClients: a thousand connections that send nothing cost little, go
// away, and keep nobody else from being served.
func TestSilentClients(t *testing.T) {
	const clients = 1000
	cfg := config(enginetest.New())
	cfg.Limits.Header = time.Second
	address := start(t, cfg)
	var before, during runtime.MemStats
	runtime.GC()
	runtime.ReadMemStats(&before)
	conns := make([]net.Conn, clients)
	for i := range conns {
		conns[i] = dial(t, address)
	}
	require.Equal(t, 200, post(t, address, "/v1/completions", prompt).status)
	runtime.ReadMemStats(&during)
	require.Less(t, int64(during.Sys)-int64(before.Sys), int64(64<<20))
	for _, conn := range conns {
		require.NoError(t, conn.SetReadDeadline(time.Now().Add(10*time.Second)))
		_, err := io.ReadAll(conn)
		require.False(t, isTimeout(err), "a silent connection stays open")
	}
}

func isTimeout(err error) bool {
	var e net.Error
	return errors.As(err, &e) && e.Timeout()
}

// inBackground sends a completion; its answer, as far as it goes, comes on the
// channel.
func inBackground(ctx context.Context, address, body string) <-chan string {
	answer := make(chan string, 1)
	go func() {
		r, err := send(ctx, http.MethodPost, address, "/v1/completions", strings.NewReader(body))
		if err != nil {
			r.text = err.Error()
		}
		answer <- r.text
	}()
	return answer
}

// TestDrain: told to stop, the server finishes what runs and refuses what is new.
func TestDrain(t *testing.T) {
	e := enginetest.New()
	e.Delay = 30 * time.Millisecond
	address, stop := startUntil(t, config(e))
	answered := inBackground(t.Context(), address, streamed)
	require.Eventually(t, func() bool { return e.Running() == 1 }, 5*time.Second, time.Millisecond)
	var stopped sync.WaitGroup
	stopped.Go(stop)
	require.Eventually(t, func() bool { return get(t, address, "/health").status == 503 }, time.Second,
		time.Millisecond)
	refused := post(t, address, "/v1/completions", prompt)
	require.Equal(t, 503, refused.status)
	require.NotEmpty(t, refused.header.Get("Retry-After"))
	require.Contains(t, <-answered, "[DONE]")
	stopped.Wait()
	_, err := send(t.Context(), http.MethodGet, address, "/health", nil)
	require.Error(t, err)
}

// TestDrainGrace: what does not finish in time is cancelled, and told so.
func TestDrainGrace(t *testing.T) {
	e := enginetest.New()
	e.Break(enginetest.Fault{After: 1, Hang: true})
	cfg := config(e)
	cfg.Limits.Grace = 50 * time.Millisecond
	address, stop := startUntil(t, cfg)
	whole, stream := inBackground(t.Context(), address, prompt), inBackground(t.Context(), address, streamed)
	require.Eventually(t, func() bool { return e.Running() == 2 }, 5*time.Second, time.Millisecond)
	stop()
	require.Contains(t, <-whole, "shutting down")
	require.Contains(t, <-stream, "shutting down")
	require.Zero(t, e.Running())
}

// TestListenerFails: Serve says what is wrong with its listener.
func TestListenerFails(t *testing.T) {
	listener := listen(t)
	require.NoError(t, listener.Close())
	err := api.NewServer(config(enginetest.New())).Serve(context.Background(), listener)
	require.ErrorContains(t, err, listener.Addr().String())
}

func TestKeys(t *testing.T) {
	cfg := config(enginetest.New())
	cfg.APIKeys = []string{"one", "two"}
	s := api.NewServer(cfg)
	for header, status := range map[string]int{
		"": 401, "Bearer": 401, "Bearer ": 401, "Bearer three": 401, "Basic one": 401, "one": 401,
		"Bearer one": 200, "bearer two": 200,
	} {
		for _, path := range []string{"/v1/models", "/v1/models/fake"} {
			w := httptest.NewRecorder()
			r := httptest.NewRequestWithContext(t.Context(), "GET", path, nil)
			r.Header.Set("Authorization", header)
			s.ServeHTTP(w, r)
			require.Equal(t, status, w.Code, header)
		}
	}
	for _, path := range []string{"/v1/completions", "/v1/chat/completions", "/tokenize", "/detokenize"} {
		w := ask(t, s, "POST", path, prompt)
		require.Equal(t, 401, w.Code)
		require.Equal(t, "invalid_api_key", *errorOf(t, w.Body).Code)
	}
	require.Equal(t, 200, ask(t, s, "GET", "/health", "").Code)
}

func TestMethodsAndTypes(t *testing.T) {
	s := api.NewServer(config(enginetest.New()))
	w := ask(t, s, "GET", "/v1/completions", "")
	require.Equal(t, 405, w.Code)
	require.Equal(t, "POST", w.Header().Get("Allow"))
	require.Equal(t, 405, ask(t, s, "DELETE", "/v1/models", "").Code)
	require.Equal(t, 200, ask(t, s, "HEAD", "/v1/models", "").Code)
	for kind, status := range map[string]int{
		"": 200, "application/json": 200, "application/json; charset=utf-8": 200,
		"text/plain": 415, "application/x-www-form-urlencoded": 415, "/": 415,
	} {
		w := httptest.NewRecorder()
		r := httptest.NewRequestWithContext(t.Context(), "POST", "/v1/completions", strings.NewReader(prompt))
		r.Header.Set("Content-Type", kind)
		s.ServeHTTP(w, r)
		require.Equal(t, status, w.Code, kind)
	}
}

func TestNotReady(t *testing.T) {
	cfg := config(enginetest.New())
	cfg.Ready = func() error { return errors.New("2 of 3 expert nodes are here") }
	s := api.NewServer(cfg)
	for _, w := range []*httptest.ResponseRecorder{ask(t, s, "GET", "/health", ""),
		ask(t, s, "POST", "/v1/completions", prompt)} {
		require.Equal(t, 503, w.Code)
		require.NotEmpty(t, w.Header().Get("Retry-After"))
		require.Contains(t, errorOf(t, w.Body).Message, "2 of 3 expert nodes")
	}
	require.Equal(t, 200, ask(t, s, "GET", "/v1/models", "").Code)
}

func TestMetrics(t *testing.T) {
	cfg := config(enginetest.New())
	require.Equal(t, 404, ask(t, api.NewServer(cfg), "GET", "/metrics", "").Code)
	cfg.Metrics = http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { _, _ = io.WriteString(w, "up 1\n") })
	require.Equal(t, "up 1\n", ask(t, api.NewServer(cfg), "GET", "/metrics", "").Body.String())
}

// TestRequestID: an id of the client's comes back, where it can be trusted.
func TestRequestID(t *testing.T) {
	s := api.NewServer(config(enginetest.New()))
	for sent, want := range map[string]string{"abc-1": "abc-1", "no spaces": "1", strings.Repeat("x", 200): "2"} {
		w := httptest.NewRecorder()
		r := httptest.NewRequestWithContext(t.Context(), "POST", "/v1/completions", strings.NewReader(prompt))
		r.Header.Set("X-Request-Id", sent)
		s.ServeHTTP(w, r)
		got := w.Header().Get("X-Request-Id")
		require.Contains(t, w.Body.String(), `"cmpl-`+got+`"`)
		if want == sent {
			require.Equal(t, want, got)
		} else {
			require.Contains(t, []string{"1", "2"}, got)
		}
	}
}

// TestPanic: an engine that breaks an invariant costs one answer.
func TestPanic(t *testing.T) {
	e := enginetest.New()
	e.Script = func(serve.Request) []int32 { panic("out of order") }
	w := ask(t, api.NewServer(config(e)), "POST", "/v1/completions", prompt)
	require.Equal(t, 500, w.Code)
	require.Equal(t, "internal error", errorOf(t, w.Body).Message)
}
