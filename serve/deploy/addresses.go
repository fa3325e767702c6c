package deploy

import (
	"context"
	"fmt"
	"net"
	"net/netip"
	"net/url"
	"strings"

	"github.com/tandem-moe/tandem/internal/hostport"
)

// addresses are where a node listens for peers, and what it tells them.
type addresses struct {
	listen string
	// host and port are told instead of the bound ones, where they are not empty.
	host, port string
}

// CheckAddresses refuses values of --listen and --advertise that cannot be right,
// whatever the machine: see [NodeOptions].
func CheckAddresses(listen, advertise string) error {
	_, err := parseAddresses(listen, advertise)
	return err
}

func parseAddresses(listen, advertise string) (addresses, error) {
	a := addresses{listen: listen}
	host, port, err := hostport.Split(listen)
	if err == nil && host != "" {
		err = hostport.CheckHost(host)
	}
	if err == nil {
		err = hostport.CheckPort(port, 0)
	}
	if err != nil {
		return a, fmt.Errorf("--listen %q, where peers reach the node: %w; want HOST:PORT, as 10.0.0.3:7001, or HOST:0 for a free port", listen, err)
	}
	if advertise == "" {
		return a, nil
	}
	if a.host, a.port, err = splitAdvertised(advertise); err != nil {
		return a, fmt.Errorf("--advertise %q, what peers are told: %w; want HOST or HOST:PORT, as 10.0.0.3:7001", advertise, err)
	}
	return a, nil
}

// splitAdvertised reads HOST or HOST:PORT.
func splitAdvertised(s string) (host, port string, err error) {
	host = s
	if ip := net.ParseIP(s); ip == nil && strings.ContainsAny(s, ":[]") {
		if host, port, err = hostport.Split(s); err != nil {
			return "", "", err
		}
		if err := hostport.CheckPort(port, 1); err != nil {
			return "", "", err
		}
	}
	if err := hostport.CheckHost(host); err != nil {
		return "", "", err
	}
	if ip := net.ParseIP(host); ip != nil && ip.IsUnspecified() {
		return "", "", fmt.Errorf("%s stands for every address of a machine, and peers need one of them", host)
	}
	return host, port, nil
}

// path is how a node and its front end reach each other: the addresses of both, as
// this host sees them.
type path struct{ here, front netip.Addr }

// pathTo asks the system which address of this host a connection with the front end
// at a URL would have. Nothing is sent: a UDP socket is connected by looking at routes.
func pathTo(ctx context.Context, control string) (path, error) {
	u, err := url.Parse(control)
	if err != nil {
		return path{}, fmt.Errorf("address of the front end: %w", err)
	}
	conn, err := new(net.Dialer).DialContext(ctx, "udp", u.Host)
	if err != nil {
		return path{}, fmt.Errorf("no way to the front end: %w", err)
	}
	defer conn.Close()
	return path{here: ipOf(conn.LocalAddr()), front: ipOf(conn.RemoteAddr())}, nil
}

// ipOf is the IP address of one of a socket.
func ipOf(a net.Addr) netip.Addr {
	at, err := netip.ParseAddrPort(a.String())
	if err != nil {
		return netip.Addr{}
	}
	return at.Addr().Unmap()
}

// oneHost says whether node and front end are on the same.
func (p path) oneHost() bool { return p.front.IsLoopback() || p.front == p.here }

// advertised is the HOST:PORT that a node which is bound at an address tells its
// peers. They may be where the front end is: what that cannot reach, they cannot.
func (a addresses) advertised(bound net.Addr, p path) (string, error) {
	host, port, err := net.SplitHostPort(bound.String())
	if err != nil {
		return "", fmt.Errorf("address %s: %w", bound, err)
	}
	if a.host != "" {
		host = a.host
	}
	if a.port != "" {
		port = a.port
	}
	if ip := net.ParseIP(host); ip != nil && ip.IsUnspecified() {
		if p.here.IsLoopback() || p.here.IsLinkLocalUnicast() {
			return "", fmt.Errorf("listening for peers at %s, any address of this machine: --advertise must say which of them they are told", a.listen)
		}
		host = p.here.String()
	}
	if hostport.IsLoopback(host) && !p.oneHost() {
		return "", fmt.Errorf("peers would be told %s, which means their own machine to those on others, and the front end at %v is on another: "+
			"let --listen (or --advertise) name an address that they reach, as --listen %s for this machine's towards the front end",
			net.JoinHostPort(host, port), p.front, net.JoinHostPort(p.here.String(), "0"))
	}
	return net.JoinHostPort(host, port), nil
}
