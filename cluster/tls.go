package cluster

import (
	"bytes"
	"crypto/tls"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"slices"
	"strings"
	"time"
)

// ErrPlain ends a connection to a port with TLS whose other end speaks without TLS.
var ErrPlain = errors.New("TLS is needed, and the node speaks without it")

// ListenTLS secures the connections of a front end's listener. A client that speaks
// without TLS is told so, in the version of HTTP that it speaks.
func ListenTLS(l net.Listener, config *tls.Config) net.Listener {
	config = config.Clone()
	config.NextProtos = []string{"h2", "http/1.1"}
	return &secureListener{l, config}
}

type secureListener struct {
	net.Listener
	config *tls.Config
}

// Accept returns a *tls.Conn, which does its handshake when it is first used.
func (l *secureListener) Accept() (net.Conn, error) {
	conn, err := l.Listener.Accept()
	if err != nil {
		return nil, err
	}
	return tls.Server(&sniffed{Conn: conn, refusal: refusePlain}, l.config), nil
}

// handshakeRecord is the first byte of every TLS connection.
const handshakeRecord = 22

// sniffed looks at the first bytes of a connection, and may refuse it.
type sniffed struct {
	net.Conn
	// refusal returns the answer and the reason to refuse a connection that begins with
	// start, and nothing for a connection that is wanted.
	refusal func(start []byte) ([]byte, error)
	seen    bool
}

// NetConn is the connection below.
func (s *sniffed) NetConn() net.Conn { return s.Conn }

// Read reads from the connection, and refuses it by the first bytes.
func (s *sniffed) Read(b []byte) (int, error) {
	n, err := s.Conn.Read(b)
	if n == 0 || s.seen {
		return n, err
	}
	s.seen = true
	if text, why := s.refusal(b[:n]); why != nil {
		s.refuse(b[:n], text)
		return 0, why
	}
	return n, err
}

// refuse sends the peer the answer text, and gives it time to read the answer and to
// close. To close first, with bytes of the peer unread, could reset the connection
// before the peer has read the answer.
func (s *sniffed) refuse(start, text []byte) {
	_ = s.Conn.SetDeadline(time.Now().Add(refusalTime)) // fails only if the connection has failed
	if bytes.HasPrefix([]byte(http2Preface), start[:min(len(start), len(http2Preface))]) {
		awaitStream(io.MultiReader(bytes.NewReader(start), io.LimitReader(s.Conn, refusalBytes)))
		_ = s.Conn.SetDeadline(time.Now().Add(refusalTime))
	}
	if _, err := s.Conn.Write(text); err == nil {
		closeWrite(s.Conn)
		_, _ = io.CopyN(io.Discard, s.Conn, refusalBytes)
	}
}

// awaitStream reads from an HTTP/2 client until a stream begins. A client that gets a
// GOAWAY before it has a stream tries again on another connection, and in the end
// reports that it cannot connect, instead of the GOAWAY's reason.
func awaitStream(r io.Reader) {
	if _, err := io.CopyN(io.Discard, r, int64(len(http2Preface))); err != nil {
		return
	}
	for {
		var header [frameHeaderBytes]byte
		if _, err := io.ReadFull(r, header[:]); err != nil || header[3] == frameHeaders {
			return
		}
		length := int64(header[0])<<16 | int64(header[1])<<8 | int64(header[2])
		if _, err := io.CopyN(io.Discard, r, length); err != nil {
			return
		}
	}
}

// closeWrite closes the sending side of a connection, if its type can.
func closeWrite(c net.Conn) {
	for {
		if half, ok := c.(interface{ CloseWrite() error }); ok {
			_ = half.CloseWrite() // fails only if the connection has failed
			return
		}
		below, ok := c.(interface{ NetConn() net.Conn })
		if !ok {
			return
		}
		c = below.NetConn()
	}
}

// How long a refused connection stays open, and how many bytes are read from it.
const (
	refusalTime  = time.Second
	refusalBytes = 64 << 10
)

// otherwiseSecured makes the cause clear where only one of the two ends uses TLS. For
// the first case, net/http's error has no exported type.
func otherwiseSecured(err error) error {
	switch {
	case err != nil && strings.Contains(err.Error(), "INADEQUATE_SECURITY"):
		return fmt.Errorf("%w: %w", ErrPlain, err)
	case errors.Is(err, http.ErrSchemeMismatch):
		return fmt.Errorf("the front end speaks without TLS, and the node with it: %w", err)
	}
	return err
}

// How a connection of HTTP/2 begins, its frame types, and the error code for an end
// that needs TLS: RFC 9113, sections 3.4, 6 and 7.
const (
	http2Preface       = "PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"
	frameHeaderBytes   = 9
	frameHeaders       = 1
	frameSettings      = 4
	frameGoAway        = 7
	inadequateSecurity = 12
	lastStream         = 1<<31 - 1
)

// goAway is all that a server sends on a connection that it refuses: its settings,
// which HTTP/2 requires, and a GOAWAY frame with the reason. The frame says that every
// stream was processed, since a client would retry the others.
func goAway(reason string) []byte {
	payload := binary.BigEndian.AppendUint32(binary.BigEndian.AppendUint32(nil, lastStream), inadequateSecurity)
	return slices.Concat(frameHeader(frameSettings, 0), frameHeader(frameGoAway, len(payload)+len(reason)), payload,
		[]byte(reason))
}

// frameHeader is the header of a frame for stream 0, the whole connection, without
// flags.
func frameHeader(kind byte, length int) []byte {
	return []byte{byte(length >> 16), byte(length >> 8), byte(length), kind, 0, 0, 0, 0, 0}
}
