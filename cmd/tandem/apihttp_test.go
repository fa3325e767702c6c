package main

import (
	"io"
	"log/slog"
	"net/http"
	"testing"

	"github.com/stretchr/testify/require"
)

// TestOriginFlags: what is no origin would never be allowed.
func TestOriginFlags(t *testing.T) {
	for _, good := range [][]string{nil, {"*"}, {"none"}, {"https://example.com", "http://localhost:3000"}} {
		require.NoError(t, (&httpFlags{AllowOrigin: good}).check())
	}
	for _, bad := range []string{"example.com", "https://example.com/", "https://", "", "https://u@example.com"} {
		require.ErrorContains(t, (&httpFlags{AllowOrigin: []string{bad}}).check(), "https://example.com")
	}
	require.Error(t, (&httpFlags{AllowOrigin: []string{"none", "*"}}).check())
	require.Nil(t, (&httpFlags{}).origins())
	require.NotNil(t, (&httpFlags{AllowOrigin: []string{"none"}}).origins())
	require.Empty(t, (&httpFlags{AllowOrigin: []string{"none"}}).origins())
}

// TestMetricsListen: metrics at an address of their own are not with the API.
func TestMetricsListen(t *testing.T) {
	log := slog.New(slog.DiscardHandler)
	handler := http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { _, _ = io.WriteString(w, "up 1\n") })
	left, end, err := (&httpFlags{}).metrics(log, handler)
	require.NoError(t, err)
	require.NotNil(t, left)
	end()

	address := freeAddr(t)
	left, end, err = (&httpFlags{MetricsListen: address}).metrics(log, handler)
	require.NoError(t, err)
	defer end()
	require.Nil(t, left)
	status, text := client{t: t, url: "http://" + address}.get("/metrics")
	require.Equal(t, 200, status)
	require.Equal(t, "up 1\n", text)
	_, _, err = (&httpFlags{MetricsListen: address}).metrics(log, handler)
	require.ErrorContains(t, err, "--metrics-listen")
}
