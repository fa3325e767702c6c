package cluster

import (
	"fmt"
	"slices"
	"strconv"
	"strings"
	"unicode"

	"github.com/tandem-moe/tandem/internal/hostport"
)

// transports are the names that package m2n gives its transports between nodes.
var transports = []string{"tcp", "shm", "ucx"}

// ParseAddr checks a node's address for its peers: one or several transports, joined
// by +, a host and a port, as in "shm+tcp:10.0.0.1:7000".
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

// printable says whether a text can be written to a terminal as it is.
func printable(s string) bool {
	return !strings.ContainsFunc(s, func(r rune) bool { return !unicode.IsPrint(r) || r == unicode.ReplacementChar })
}

// quotedError is an error with text from a peer, quoted so that a terminal may show it.
type quotedError struct{ error }

func (e *quotedError) Error() string { return strconv.Quote(e.error.Error()) }

func (e *quotedError) Unwrap() error { return e.error }

// Quoted makes an error safe to show on a terminal, whatever text a peer has put into
// it.
func Quoted(err error) error {
	if err == nil || printable(err.Error()) {
		return err
	}
	return &quotedError{err}
}
