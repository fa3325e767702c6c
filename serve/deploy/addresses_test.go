package deploy

import (
	"net"
	"net/netip"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
)

// TestAddressesAreParsed: a wrong address is refused before anything is loaded, with the
// names of the flag and the value.
func TestAddressesAreParsed(t *testing.T) {
	for _, good := range [][2]string{
		{"127.0.0.1:0", ""}, {":7001", ""}, {"[::]:7001", ""}, {"node-3.example_net:7001", ""}, {"[fe80::1%eth0]:1", ""},
		{"0.0.0.0:0", "10.0.0.3"}, {"0.0.0.0:0", "10.0.0.3:7001"}, {"0.0.0.0:0", "2001:db8::1"}, {"0.0.0.0:0", "[2001:db8::1]:7001"},
		{"0.0.0.0:0", "node-3.example.net"}, {"0.0.0.0:0", "localhost:1"},
	} {
		require.NoError(t, CheckAddresses(good[0], good[1]), good)
	}
	for _, bad := range []struct{ listen, advertise, says string }{
		{"", "", `--listen ""`},
		{"nonsense", "", "missing port"},
		{"127.0.0.1:http", "", `port "http"`},
		{"127.0.0.1:65536", "", "65535"},
		{"127.0.0.1:-1", "", "65535"},
		{"a b:1", "", `host "a b"`},
		{"::1:1", "", "too many colons"},
		{"10.0.0.3:0", "0.0.0.0", "every address"},
		{"10.0.0.3:0", "[::]:7001", "every address"},
		{"10.0.0.3:0", "::", "every address"},
		{"10.0.0.3:0", ":7001", "neither an IP address nor a name"},
		{"10.0.0.3:0", "10.0.0.3:0", "1 to 65535"},
		{"10.0.0.3:0", "10.0.0.3:", "1 to 65535"},
		{"10.0.0.3:0", "tcp:10.0.0.3:7001", "too many colons"},
		{"10.0.0.3:0", "http://10.0.0.3", "port"},
		{"10.0.0.3:0", "node\x1b[2J", `node\x1b[2J`},
		{"10.0.0.3:0", strings.Repeat("a", 300), "neither an IP address nor a name"},
	} {
		err := CheckAddresses(bad.listen, bad.advertise)
		require.ErrorContains(t, err, bad.says, bad)
		flag := "--listen"
		if bad.advertise != "" {
			flag = "--advertise"
		}
		require.ErrorContains(t, err, flag)
		require.NotContains(t, err.Error(), "\x1b")
	}
}

// TestWhatPeersAreTold: the address that peers are told depends on whether the front end
// is on the same host.
func TestWhatPeersAreTold(t *testing.T) {
	local := path{here: netip.MustParseAddr("127.0.0.1"), front: netip.MustParseAddr("127.0.0.1")}
	own := path{here: netip.MustParseAddr("10.0.0.3"), front: netip.MustParseAddr("10.0.0.3")}
	other := path{here: netip.MustParseAddr("10.0.0.3"), front: netip.MustParseAddr("10.0.0.1")}
	other6 := path{here: netip.MustParseAddr("2001:db8::3"), front: netip.MustParseAddr("2001:db8::1")}
	link := path{here: netip.MustParseAddr("fe80::3%eth0"), front: netip.MustParseAddr("fe80::1%eth0")}
	for _, c := range []struct {
		bound, advertise string
		path             path
		told, says       string
	}{
		{"127.0.0.1:4567", "", local, "127.0.0.1:4567", ""},
		{"127.0.0.1:4567", "", own, "127.0.0.1:4567", ""},
		{"10.0.0.3:4567", "", other, "10.0.0.3:4567", ""},
		{"0.0.0.0:4567", "", other, "10.0.0.3:4567", ""},
		{"[::]:4567", "", other, "10.0.0.3:4567", ""},
		{"[::]:4567", "", other6, "[2001:db8::3]:4567", ""},
		{"127.0.0.1:4567", "192.0.2.7", other, "192.0.2.7:4567", ""},
		{"127.0.0.1:4567", "192.0.2.7:80", other, "192.0.2.7:80", ""},
		{"0.0.0.0:4567", "127.0.0.1", local, "127.0.0.1:4567", ""},

		{"0.0.0.0:4567", "", local, "", "--advertise must say which"},
		{"[::]:4567", "", link, "", "--advertise must say which"},
		{"127.0.0.1:4567", "", other, "", "their own machine"},
		{"127.0.0.1:4567", "", other, "", "--listen 10.0.0.3:0"},
		{"127.0.0.1:4567", "", other, "", "front end at 10.0.0.1"},
		{"[::1]:4567", "", other6, "", "--listen [2001:db8::3]:0"},
		{"0.0.0.0:4567", "localhost:80", other, "", "peers would be told localhost:80"},
	} {
		a, err := parseAddresses(c.bound, c.advertise)
		require.NoError(t, err)
		bound, err := net.ResolveTCPAddr("tcp", c.bound)
		require.NoError(t, err)
		told, err := a.advertised(bound, c.path)
		require.Equal(t, c.told, told, c)
		if c.says != "" {
			require.ErrorContains(t, err, c.says)
			continue
		}
		require.NoError(t, err, c)
	}
}

// TestPathToTheFrontEnd: the system tells the addresses of a connection to the front end
// without any being made.
func TestPathToTheFrontEnd(t *testing.T) {
	p, err := pathTo(t.Context(), "http://127.0.0.1:7000")
	require.NoError(t, err)
	require.True(t, p.here.IsLoopback())
	require.True(t, p.oneHost())
	_, err = pathTo(t.Context(), "http://127.0.0.1")
	require.Error(t, err)
}

func FuzzAddresses(f *testing.F) {
	for _, s := range []string{"", "127.0.0.1:0", "[::1]:7001", "10.0.0.3", "[::", "a:b:c", "\x00:1"} {
		f.Add(s, s)
	}
	f.Fuzz(func(t *testing.T, listen, advertise string) {
		a, err := parseAddresses(listen, advertise)
		if err != nil {
			for _, r := range err.Error() {
				require.NotEqual(t, rune(0x1b), r, "a terminal's command")
			}
			return
		}
		told, err := a.advertised(&net.TCPAddr{IP: net.IPv4(10, 0, 0, 3), Port: 7001}, path{here: netip.MustParseAddr("10.0.0.3"), front: netip.MustParseAddr("10.0.0.1")})
		if err == nil {
			_, _, err := net.SplitHostPort(told)
			require.NoError(t, err)
		}
	})
}
