package cluster

import (
	"errors"
	"fmt"
	"net"
	"slices"
	"strconv"
	"strings"
	"unicode"
)

// transports are those by which nodes reach each other, in m2n's words.
var transports = []string{"tcp", "shm", "ucx"}

// ParseAddr checks an address at which a node's peers are to reach it: one or
// several transports, joined by +, and a host and a port, as in
// "shm+tcp:10.0.0.1:7000".
func ParseAddr(addr string) error {
	scheme, rest, _ := strings.Cut(addr, ":")
	for t := range strings.SplitSeq(scheme, "+") {
		if !slices.Contains(transports, t) {
			return fmt.Errorf("address %q: want TRANSPORT:HOST:PORT, such as tcp:10.0.0.1:7000", addr)
		}
	}
	host, port, err := net.SplitHostPort(rest)
	if err == nil {
		err = parseHostPort(host, port)
	}
	if err != nil {
		return fmt.Errorf("address %q: want TRANSPORT:HOST:PORT: %w", addr, withoutAddr(err))
	}
	return nil
}

// withoutAddr leaves out what is quoted already.
func withoutAddr(err error) error {
	var e *net.AddrError
	if errors.As(err, &e) {
		return errors.New(e.Err)
	}
	return err
}

// parseHostPort checks a literal address, or a name, and a number.
func parseHostPort(host, port string) error {
	if n, err := strconv.ParseUint(port, 10, 16); err != nil || n == 0 {
		return fmt.Errorf("port %q, want a number from 1 to 65535", port)
	}
	literal, _, _ := strings.Cut(host, "%") // the zone of a link-local one
	if net.ParseIP(literal) != nil && printable(host) {
		return nil
	}
	letters := strings.Trim(host, "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789-_.")
	if host == "" || letters != "" {
		return fmt.Errorf("host %q, want an IP address or a name", host)
	}
	return nil
}

// printable says whether a text can go to a terminal as it is.
func printable(s string) bool {
	return !strings.ContainsFunc(s, func(r rune) bool { return !unicode.IsPrint(r) || r == unicode.ReplacementChar })
}

// quotedError is an error with what a peer has said, as a terminal may show it.
type quotedError struct{ error }

func (e *quotedError) Error() string { return strconv.Quote(e.error.Error()) }

func (e *quotedError) Unwrap() error { return e.error }

// Quoted is an error that a terminal may show, whatever a peer has put into it.
func Quoted(err error) error {
	if err == nil || printable(err.Error()) {
		return err
	}
	return &quotedError{err}
}
