package hostport

import (
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
)

func TestSplit(t *testing.T) {
	host, port, err := Split("[::1]:80")
	require.NoError(t, err)
	require.Equal(t, []string{"::1", "80"}, []string{host, port})
	_, _, err = Split("a\x1b[2J")
	require.EqualError(t, err, "missing port in address")
}

func TestCheckPort(t *testing.T) {
	for _, good := range []string{"1", "65535", "080"} {
		require.NoError(t, CheckPort(good, 1), good)
	}
	require.NoError(t, CheckPort("0", 0))
	for _, bad := range []string{"", "0", "-1", "+1", "65536", "http", " 1"} {
		require.ErrorContains(t, CheckPort(bad, 1), "1 to 65535", bad)
	}
}

func TestCheckHost(t *testing.T) {
	for _, good := range []string{"10.0.0.3", "::1", "fe80::1%eth0", "node-1.example.com", "a_b",
		strings.Repeat("a", 253)} {
		require.NoError(t, CheckHost(good), good)
	}
	for _, bad := range []string{"", "a b", "a:1", "[::1]", "node\x1b[2J", "fe80::1%\x1b[2J", "ä",
		strings.Repeat("a", 254)} {
		err := CheckHost(bad)
		require.ErrorContains(t, err, "neither an IP address nor a name", bad)
		require.NotContains(t, err.Error(), "\x1b")
	}
}

func TestIsLoopback(t *testing.T) {
	for host, want := range map[string]bool{
		"127.0.0.1": true, "127.9.9.9": true, "::1": true, "::ffff:127.0.0.1": true, "localhost": true,
		"LocalHost": true,
		"0.0.0.0":   false, "10.0.0.1": false, "": false, "example.com": false,
	} {
		require.Equal(t, want, IsLoopback(host), host)
	}
}
