package cluster

import (
	"fmt"
	"slices"
	"strconv"
	"strings"
	"unicode"

	"github.com/tandem-moe/tandem/internal/hostport"
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
	host, port, err := hostport.Split(rest)
	if err == nil {
		err = hostport.CheckPort(port, 1)
	}
	if err == nil {
		err = hostport.CheckHost(host)
	}
	if err != nil {
		return fmt.Errorf("address %q: want TRANSPORT:HOST:PORT: %w", addr, err)
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
