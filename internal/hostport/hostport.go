// Package hostport owns how the address of a host and a port is read, from a
// command line or from another process. Its errors quote what they repeat. It may
// not know who listens there.
package hostport

import (
	"errors"
	"fmt"
	"net"
	"net/netip"
	"strconv"
	"strings"
	"unicode"
)

// Split is net.SplitHostPort, with errors that do not repeat the text as it came.
func Split(s string) (host, port string, err error) {
	host, port, err = net.SplitHostPort(s)
	var wrong *net.AddrError
	if errors.As(err, &wrong) {
		return "", "", errors.New(wrong.Err)
	}
	return host, port, err
}

// CheckPort takes the decimal numbers of ports, from the least on.
func CheckPort(port string, least uint16) error {
	if n, err := strconv.ParseUint(port, 10, 16); err != nil || n < uint64(least) {
		return fmt.Errorf("port %q is no number from %d to 65535", port, least)
	}
	return nil
}

// maxName is the length of the longest name of a host: RFC 1035, section 2.3.4.
const maxName = 253

// CheckHost takes IP addresses, with a zone too, and names of hosts.
func CheckHost(host string) error {
	_, err := netip.ParseAddr(host)
	if err == nil && !strings.ContainsFunc(host, unprintable) { // a zone may be anything
		return nil
	}
	if host == "" || len(host) > maxName || strings.ContainsFunc(host, notInNames) {
		return fmt.Errorf("host %q is neither an IP address nor a name", host)
	}
	return nil
}

func unprintable(r rune) bool { return !unicode.IsPrint(r) || r == unicode.ReplacementChar }

func notInNames(r rune) bool {
	return !('a' <= r && r <= 'z' || 'A' <= r && r <= 'Z' || '0' <= r && r <= '9' || r == '-' || r == '.' || r == '_')
}

// IsLoopback says whether a host, as an address or by name, means the machine that
// asks, so that nobody else reaches what listens there.
func IsLoopback(host string) bool {
	ip, err := netip.ParseAddr(host)
	return strings.EqualFold(host, "localhost") || err == nil && ip.Unmap().IsLoopback()
}
