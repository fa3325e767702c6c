package api_test

import (
	"bufio"
	"fmt"
	"io"
	"net"
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/tandem-moe/tandem/serve/completion/enginetest"
)

// await reads an answer, and says whether the connection is closed behind it.
func await(t *testing.T, conn net.Conn) (status int, closed bool) {
	t.Helper()
	require.NoError(t, conn.SetDeadline(time.Now().Add(20*time.Second)))
	r := bufio.NewReader(conn)
	response, err := http.ReadResponse(r, nil)
	require.NoError(t, err)
	_, err = io.ReadAll(response.Body)
	require.NoError(t, err)
	require.NoError(t, response.Body.Close())
	if !response.Close {
		return response.StatusCode, false
	}
	_, err = r.ReadByte()
	require.False(t, isTimeout(err), "the connection stays open")
	return response.StatusCode, true
}

// TestLockOuts: far more connections than there may be, of each kind that waits for
// a client, shut nobody out; a stream that runs is not cut.
func TestLockOuts(t *testing.T) {
	const most = 32
	for name, attack := range map[string]struct {
		text   string
		answer bool // it is answered, and then stays
	}{
		"silence":       {"", false},
		"a header":      {"GET /health HTTP/1.1\r\nHost: x\r\nX: ", false},
		"a body":        {"POST /v1/completions HTTP/1.1\r\nHost: x\r\nContent-Length: 100\r\n\r\n{", false},
		"kept alive":    {"GET /health HTTP/1.1\r\nHost: x\r\n\r\n", true},
		"a wrong body":  {"POST /v1/completions HTTP/1.1\r\nHost: x\r\nContent-Length: 2\r\n\r\n{}", true},
		"nothing there": {"POST /nowhere HTTP/1.1\r\nHost: x\r\nContent-Length: 100\r\n\r\n{", true},
	} {
		t.Run(name, func(t *testing.T) {
			e := enginetest.New()
			e.Break(enginetest.Fault{After: 1, Hang: true})
			cfg := config(e)
			cfg.Limits.Connections = most
			cfg.Limits.Grace = time.Millisecond
			address := start(t, cfg)
			running := dial(t, address)
			_, err := fmt.Fprintf(running, "POST /v1/completions HTTP/1.1\r\nHost: x\r\nContent-Length: %d\r\n\r\n%s",
				len(streamed), streamed)
			require.NoError(t, err)
			require.Eventually(t, func() bool { return e.Running() == 1 }, 5*time.Second, time.Millisecond)
			e.Break(enginetest.Fault{})
			for range 3 * most {
				conn := dial(t, address)
				_, err := io.WriteString(conn, attack.text)
				require.NoError(t, err)
				if attack.answer {
					_, err = conn.Read(make([]byte, 1))
					require.NoError(t, err)
				}
			}
			require.Equal(t, 200, get(t, address, "/health").status)
			require.Equal(t, 200, post(t, address, "/v1/completions", prompt).status)
			require.Equal(t, 1, e.Running(), "the stream that ran has been cut")
		})
	}
}

// TestBusyConnections: where all that may be are at work, more work is refused and
// /health is answered.
func TestBusyConnections(t *testing.T) {
	e := enginetest.New()
	e.Break(enginetest.Fault{Hang: true})
	cfg := config(e)
	cfg.Limits.Connections, cfg.Limits.Grace = 3, time.Millisecond
	address := start(t, cfg)
	for range 3 {
		inBackground(t.Context(), address, streamed)
	}
	require.Eventually(t, func() bool { return e.Running() == 3 }, 5*time.Second, time.Millisecond)
	refused := post(t, address, "/v1/completions", prompt)
	require.Equal(t, 429, refused.status)
	require.NotEmpty(t, refused.header.Get("Retry-After"))
	require.Equal(t, 200, get(t, address, "/health").status)
}

// TestCloseBehindStrangers: a connection ends behind 401 and 408, and behind any
// answer to a request whose body has not come, which is not waited for.
func TestCloseBehindStrangers(t *testing.T) {
	t.Parallel() // most of its time is waiting
	for name, c := range map[string]struct {
		request string
		status  int
		closed  bool
	}{
		"no key":              {"GET /v1/models HTTP/1.1\r\nHost: x\r\n\r\n", 401, true},
		"no key and no body":  {"POST /v1/completions HTTP/1.1\r\nHost: x\r\nContent-Length: 100\r\n\r\n", 401, true},
		"no body":             {"POST /v1/completions HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer k\r\nContent-Length: 100\r\n\r\n{", 408, true},
		"a body that is late": {"POST /nowhere HTTP/1.1\r\nHost: x\r\nContent-Length: 100\r\n\r\n{", 404, true},
		"no fault":            {"GET /health HTTP/1.1\r\nHost: x\r\n\r\n", 200, false},
		"a fault that passes": {"POST /v1/completions HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer k\r\nContent-Length: 2\r\n\r\n{}", 400, false},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			cfg := config(enginetest.New())
			cfg.APIKeys = []string{"k"}
			cfg.Limits.ReadBody = 300 * time.Millisecond
			conn := dial(t, start(t, cfg))
			_, err := io.WriteString(conn, c.request)
			require.NoError(t, err)
			status, closed := await(t, conn)
			require.Equal(t, c.status, status)
			require.Equal(t, c.closed, closed)
		})
	}
}

// TestBodyThatProgresses: a body may take longer than a piece of it.
func TestBodyThatProgresses(t *testing.T) {
	t.Parallel() // most of its time is waiting
	const pieces, pause, patience = 8, 150 * time.Millisecond, 600 * time.Millisecond
	cfg := config(enginetest.New())
	cfg.Limits.ReadBody = patience
	address := start(t, cfg)
	send := func(each int) int {
		body := `{"prompt":"hi","temperature":0,"user":"` + strings.Repeat("x", pieces*each) + `"}`
		conn := dial(t, address)
		_, err := fmt.Fprintf(conn, "POST /v1/completions HTTP/1.1\r\nHost: x\r\nContent-Length: %d\r\n\r\n", len(body))
		require.NoError(t, err)
		for at := 0; at < len(body); at += each {
			if _, err := io.WriteString(conn, body[at:min(at+each, len(body))]); err != nil {
				break // it has been given up
			}
			time.Sleep(pause)
		}
		status, _ := await(t, conn)
		return status
	}
	require.Equal(t, 200, send(80<<10), "a body that progresses is given up")
	require.Equal(t, 408, send(100), "a body that trickles is waited for")
}
