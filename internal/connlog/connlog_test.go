package connlog

import (
	"bytes"
	"fmt"
	"log/slog"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

// TestBounded: a stranger that tries a thousand times takes ten lines a minute, and
// the next one says how many were left out.
func TestBounded(t *testing.T) {
	var out bytes.Buffer
	clock := time.Unix(1000, 0)
	w := &Log{to: slog.New(slog.NewTextHandler(&out, nil)), level: slog.LevelDebug, now: func() time.Time { return clock }}
	l := w.Server()
	for i := range 1000 {
		l.Printf("http: TLS handshake error from 10.0.0.9:%d: remote error: tls: bad certificate", i)
		l.Printf("http: TLS handshake error from 10.0.0.9:%d: EOF", i)
		l.Printf("http: something else")
	}
	require.Equal(t, burst, strings.Count(out.String(), "\n"))
	require.Contains(t, out.String(), `level=WARN msg="a TLS handshake failed" from=10.0.0.9:0 reason="remote error: tls: bad certificate"`)
	out.Reset()
	clock = clock.Add(span)
	l.Print("http: TLS handshake error from [::1]:5: x: y")
	require.Contains(t, out.String(), fmt.Sprintf(`from=[::1]:5 reason="x: y" left_out_before=%d`, 1000-burst))
	out.Reset()
	l.Print("http: TLS handshake error from [::1]:6: x")
	require.NotContains(t, out.String(), "left_out")
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
