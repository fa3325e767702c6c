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

// addresses says where a node listens for peers, and which address peers are told.
type addresses struct {
	listen string
	// host and port, if not empty, replace those of the bound address in what peers
	// are told.
	host, port string
}

// CheckAddresses refuses values of --listen and --advertise that are wrong on any
// machine: see [NodeOptions].
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

// path has the IP addresses of a connection between a node and its front end: this
// host's and the front end's.
type path struct{ here, front netip.Addr }

// pathTo asks the system which addresses a connection with the front end at a URL
// would have. It sends nothing: connecting a UDP socket only looks at routes.
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

// ipOf returns the IP address in a socket's address.
func ipOf(a net.Addr) netip.Addr {
	at, err := netip.ParseAddrPort(a.String())
	if err != nil {
		return netip.Addr{}
	}
	return at.Addr().Unmap()
}

// oneHost says whether node and front end are on one host.
func (p path) oneHost() bool { return p.front.IsLoopback() || p.front == p.here }

// advertised returns the HOST:PORT at which peers reach a node that is bound at an
// address. Peers may be on the front end's host, so the address must be one that the
// front end's host can reach.
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
