package main

import (
	"crypto/tls"
	"io"
	"net"
	"net/http"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

// says sends bytes to an address, and returns all that comes back.
func says(t *testing.T, address, text string) string {
	t.Helper()
	conn, err := net.DialTimeout("tcp", address, patience)
	require.NoError(t, err)
	defer conn.Close()
	require.NoError(t, conn.SetDeadline(time.Now().Add(patience)))
	_, err = io.WriteString(conn, text)
	require.NoError(t, err)
	answer, err := io.ReadAll(conn)
	require.NoError(t, err)
	return string(answer)
}

// TestStrangersAtTheControlPort hear in their own words where they are: who takes it
// for the API, with HTTP/1 or HTTP/2, and who speaks TLS to a port without.
func TestStrangersAtTheControlPort(t *testing.T) {
	control := freeAddr(t)
	front := start(t, "serve", "--control", control, "--listen", "127.0.0.1:0")
	url := front.url()
	for _, path := range []string{"/", "/v1/models", "/health"} {
		status, text := client{t: t, url: "http://" + control}.get(path)
		require.Equal(t, http.StatusNotFound, status)
		require.Equal(t, "This is Tandem's control port: the nodes of a cluster join here. The API is at "+url+"\n", text)
	}
	protocols := new(http.Protocols)
	protocols.SetUnencryptedHTTP2(true)
	transport := &http.Transport{Protocols: protocols}
	defer transport.CloseIdleConnections()
	response, err := (&http.Client{Transport: transport, Timeout: patience}).Get("http://" + control)
	require.NoError(t, err)
	defer response.Body.Close()
	text, err := io.ReadAll(response.Body)
	require.NoError(t, err)
	require.Contains(t, string(text), "control port")

	//nolint:gosec // a stranger does not care
	_, err = tls.DialWithDialer(&net.Dialer{Timeout: patience}, "tcp", control, &tls.Config{InsecureSkipVerify: true})
	require.ErrorContains(t, err, "first record does not look like a TLS handshake")
	require.Contains(t, says(t, control, "\x16\x03\x01\x00\x05hello"), "It has no TLS, and you speak it")
	front.says("a TLS handshake failed.*speaks TLS, and this port has none")
	front.stopped()
}

// TestStrangersAtTheSecuredControlPort hear that it needs TLS, in the HTTP that they
// speak.
func TestStrangersAtTheSecuredControlPort(t *testing.T) {
	control := freeAddr(t)
	front := start(t, "serve", "--control", control, "--listen", "127.0.0.1:0", "--tls",
		filepath.Join(authority(t, "front"), "front"))
	front.url()
	status, text := client{t: t, url: "http://" + control}.get("/")
	require.Equal(t, http.StatusBadRequest, status)
	require.Equal(t, "This is Tandem's control port: the nodes of a cluster join here. It needs TLS, and you speak without it.\n", text)
	require.Contains(t, says(t, control, "PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"), "TLS is needed")
	require.False(t, strings.HasPrefix(says(t, control, "no protocol at all\r\n"), "HTTP/1"))
	front.stopped()
}
