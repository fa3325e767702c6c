package cluster

import (
	"bufio"
	"bytes"
	"net/http"
	"testing"

	"github.com/stretchr/testify/require"
)

// TestRefusals: each stranger gets the reason in its own protocol, and no other client
// is refused.
func TestRefusals(t *testing.T) {
	for start, http1 := range map[string]bool{
		"GET / HTTP/1.1\r\n": true, "OPTIONS * HTTP/1.1\r\n": true, "PROPFIND /": true,
		"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n": false, "hello": false, "\x00": false, " ": false, "get / HTTP/1.1": false,
	} {
		text, why := refusePlain([]byte(start))
		require.ErrorIs(t, why, ErrPlain)
		require.Equal(t, http1, bytes.HasPrefix(text, []byte("HTTP/1.1 400 ")), "%q", start)
		_, why = refuseTLS([]byte(start))
		require.NoError(t, why, "without TLS all is as it should be")
	}
	text, why := refuseTLS([]byte{handshakeRecord, 3, 1})
	require.ErrorIs(t, why, errTLS)
	answer, err := http.ReadResponse(bufio.NewReader(bytes.NewReader(text)), nil)
	require.NoError(t, err)
	require.NoError(t, answer.Body.Close())
	require.Equal(t, http.StatusBadRequest, answer.StatusCode)
	_, why = refusePlain([]byte{handshakeRecord, 3, 1})
	require.NoError(t, why)
}

// FuzzRefusals: however a connection begins, exactly one of the two kinds of port, with
// TLS and without, refuses it.
func FuzzRefusals(f *testing.F) {
	f.Add([]byte("GET / HTTP/1.1\r\n"))
	f.Add([]byte{handshakeRecord, 3, 1, 0})
	f.Add([]byte("PRI * HTTP/2.0"))
	f.Fuzz(func(t *testing.T, start []byte) {
		if len(start) == 0 {
			return
		}
		plain, notPlain := refusePlain(start)
		secure, notSecure := refuseTLS(start)
		require.NotEqual(t, notPlain == nil, notSecure == nil)
		require.NotEqual(t, len(plain) == 0, len(secure) == 0)
	})
}
