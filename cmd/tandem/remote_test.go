package main

import (
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
)

// TestTalkToAServer: chat and generate with --url say what they say with the model in
// their own process, and send the key that the server wants.
func TestTalkToAServer(t *testing.T) {
	p := start(t, "serve", "--listen", "127.0.0.1:0", small, "--api-key", "secret")
	url := p.url()
	for _, c := range []struct {
		stdin string
		args  []string
	}{
		{"func main() {\n\nvar x\n", []string{"chat", "--system", "package main"}},
		{"func main() {", []string{"generate", "-"}},
		{"", []string{"generate", "type T", "--seed", "7", "--top-k", "5", "--top-p", "0.9", "--temperature", "1.5",
			"--stop", "}"}},
	} {
		args := append(c.args, "--max-tokens", "12")
		if len(args) < 6 {
			args = append(args, "--temperature", "0")
		}
		local := succeeds(t, c.stdin, append(args, small)...)
		for _, at := range []string{url, strings.TrimPrefix(url, "http://"), url + "/v1/"} {
			require.Equal(t, local, succeeds(t, c.stdin, append(args, "--url", at, "--api-key", "secret")...))
		}
	}
	folder := tandemWith(t, []string{"TANDEM_MODEL=/of/a/folder", "TANDEM_API_KEY=secret"}, "", "generate", "x",
		"--max-tokens", "2", "--url", url)
	require.Equal(t, 0, folder.code, "the environment's model is no name of the server's: %s", folder.err)
	for args, says := range map[string][]string{
		"generate x --url " + url:                                {"401", "API key"},
		"generate x --api-key secret --model other --url " + url: {"404", "other"},
		"chat --url http://" + freeAddr(t):                       {"connection refused"},
	} {
		got := tandem(t, "", strings.Fields(args)...)
		require.Equal(t, failed, got.code, "%s: %s", args, got.err)
		for _, s := range says {
			require.Contains(t, got.err, s, args)
		}
	}
	for _, m := range []mistake{
		{"chat --url " + url + " --threads 2", usage, []string{"--threads", "--url"}},
		{"chat --url ftp://x", usage, []string{"--url", "ftp://x", "http://HOST:PORT"}},
		{"generate x --url http://user:word@host", usage, []string{"--url"}},
		{"chat --api-key k", usage, []string{"--api-key", "--url"}},
	} {
		m.refuses(t)
	}
	p.stopped()
}

// TestServersThatBreakOff: what came is written, and the reason told.
func TestServersThatBreakOff(t *testing.T) {
	for answer, says := range map[string]string{
		"data: {\"choices\":[{\"text\":\"ab\"}]}\n\n":                                                "unexpected EOF",
		"data: {\"choices\":[{\"text\":\"ab\"}]}\n\ndata: {\"error\":{\"message\":\"no node\"}}\n\n": "the server says: no node",
		"data: {\"choices\":[{\"text\":\"ab\"}]}\n\ndata: {":                                         "an event of the server's",
	} {
		s := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			require.Equal(t, "/v1/completions", r.URL.Path)
			require.Empty(t, r.Header.Get("Authorization"), "nobody gave a key")
			_, _ = w.Write([]byte(": a comment\n\n" + answer))
		}))
		got := tandemWith(t, []string{"OPENAI_API_KEY=of-another-server"}, "", "generate", "x", "--url", s.URL,
			"--model", "m")
		s.Close()
		require.Equal(t, failed, got.code)
		require.Equal(t, "ab\n", got.out)
		require.Contains(t, got.err, says)
	}
}

// FuzzEvents: whatever a server sends, its text is handed out or an error comes.
func FuzzEvents(f *testing.F) {
	f.Add("data: {\"choices\":[{\"delta\":{\"content\":\"x\"}}]}\n\ndata: [DONE]\n")
	f.Add(": c\n\ndata:{\"choices\":null,\"error\":{}}\n")
	f.Add("data: [1]\r\n")
	f.Fuzz(func(t *testing.T, answer string) {
		n := 0
		err := events(strings.NewReader(answer), func(text string) error {
			n += len(text)
			return nil
		})
		require.LessOrEqual(t, n, 3*len(answer), "a byte that is no UTF-8 becomes three")
		if err == nil {
			require.Contains(t, answer, "[DONE]")
		}
	})
}
