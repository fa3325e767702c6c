package connlog

import (
	"bytes"
	"log/slog"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
)

// TestHandshakes: a handshake that failed is a warning that says with whom and why,
// and what is below the log's level is not there.
func TestHandshakes(t *testing.T) {
	var out bytes.Buffer
	l := New(slog.New(slog.NewTextHandler(&out, nil)), slog.LevelDebug).Server()
	l.Print("http: TLS handshake error from [::1]:5: remote error: tls: bad certificate")
	l.Print("http: TLS handshake error from 10.0.0.9:1: EOF")
	l.Print("http: something else")
	require.Contains(t, out.String(), `level=WARN msg="a TLS handshake failed" from=[::1]:5 reason="remote error: tls: bad certificate"`)
	require.Equal(t, 1, strings.Count(out.String(), "\n"))
}

// TestOtherLines have the level that the server's owner gave them.
func TestOtherLines(t *testing.T) {
	var out bytes.Buffer
	l := New(slog.New(slog.NewTextHandler(&out, nil)), slog.LevelWarn).Server()
	l.Print("http: Accept error: too many open files; retrying in 5ms\n")
	l.Print("http: TLS handshake error from 10.0.0.9:1: EOF")
	require.Contains(t, out.String(), `level=WARN msg="the HTTP server" says="http: Accept error: too many open files; retrying in 5ms"`)
	require.Equal(t, 2, strings.Count(out.String(), "\n"))
}

// TestBounded: whatever somebody provokes a thousand times, a broken preface of
// HTTP/2 or a connection that ends at once, takes few lines.
func TestBounded(t *testing.T) {
	for _, line := range []string{
		"http: TLS handshake error from 10.0.0.9:1: remote error: tls: bad certificate",
		"http: TLS handshake error from 10.0.0.9:1: EOF",
		"http2: server: error reading preface from client 10.0.0.9:1: bogus greeting \"GET\"",
	} {
		var out bytes.Buffer
		l := New(slog.New(slog.NewTextHandler(&out, nil)), slog.LevelWarn).Server()
		for range 1000 {
			l.Print(line)
		}
		require.Less(t, strings.Count(out.String(), "\n"), 20, line)
	}
}
