package cluster

import (
	"crypto/tls"
	"encoding/binary"
	"errors"
	"fmt"
	"net"
	"net/http"
	"slices"
	"strings"
)

// ErrPlain: who dialled speaks without TLS.
var ErrPlain = errors.New("TLS is needed, and the node speaks without it")

// ListenTLS secures the connections of a front end's listener. Whoever speaks
// without TLS hears that in HTTP/2's words.
func ListenTLS(l net.Listener, config *tls.Config) net.Listener {
	config = config.Clone()
	config.NextProtos = []string{"h2", "http/1.1"}
	return &secureListener{l, config}
}

type secureListener struct {
	net.Listener
	config *tls.Config
}

// Accept returns a *tls.Conn, which shakes hands when it is first used.
func (l *secureListener) Accept() (net.Conn, error) {
	conn, err := l.Listener.Accept()
	if err != nil {
		return nil, err
	}
	return tls.Server(&sniffed{Conn: conn}, l.config), nil
}

// handshakeRecord is the first byte of every TLS connection.
const handshakeRecord = 22

// sniffed looks at the first byte of a connection.
type sniffed struct {
	net.Conn
	seen bool
}

// Read refuses a connection that does not begin as TLS does.
func (s *sniffed) Read(b []byte) (int, error) {
	n, err := s.Conn.Read(b)
	if n == 0 || s.seen {
		return n, err
	}
	s.seen = true
	if b[0] == handshakeRecord {
		return n, err
	}
	_, _ = s.Conn.Write(goAway(ErrPlain.Error())) // whom that does not reach sees the end
	return 0, ErrPlain
}

// otherwiseSecured names the cause where only one of the ends uses TLS. The type
// of net/http's error for the first case is not exported.
func otherwiseSecured(err error) error {
	switch {
	case err != nil && strings.Contains(err.Error(), "INADEQUATE_SECURITY"):
		return fmt.Errorf("%w: %w", ErrPlain, err)
	case errors.Is(err, http.ErrSchemeMismatch):
		return fmt.Errorf("the front end speaks without TLS, and the node with it: %w", err)
	}
	return err
}

// HTTP/2's frame types and the error code for an end that needs TLS: RFC 9113,
// sections 6 and 7.
const (
	frameSettings      = 4
	frameGoAway        = 7
	inadequateSecurity = 12
)

// goAway is all that a server says on a connection that it does not want: its
// settings, as it must, and why.
func goAway(reason string) []byte {
	payload := binary.BigEndian.AppendUint32(make([]byte, 4), inadequateSecurity) // after the last stream's id, 0
	return slices.Concat(frameHeader(frameSettings, 0), frameHeader(frameGoAway, len(payload)+len(reason)), payload, []byte(reason))
}

// frameHeader is that of a frame of the connection as a whole, without flags.
func frameHeader(kind byte, length int) []byte {
	return []byte{byte(length >> 16), byte(length >> 8), byte(length), kind, 0, 0, 0, 0, 0}
}
