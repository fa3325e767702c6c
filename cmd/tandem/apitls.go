package main

import (
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"sync"

	"github.com/tandem-moe/tandem/certs"
	"github.com/tandem-moe/tandem/internal/connlog"
)

// apiTLSFlags secure the API for its clients. The names are vLLM's.
type apiTLSFlags struct {
	SSLCertfile string `help:"Serve the API by HTTPS, with this certificate (PEM). Default: HTTP." name:"ssl-certfile" placeholder:"FILE"`
	SSLKeyfile  string `help:"The private key of --ssl-certfile." name:"ssl-keyfile" placeholder:"FILE"`
}

// secure puts TLS on the API's listener where the flags ask for it.
func (f *apiTLSFlags) secure(l net.Listener, log *slog.Logger) (net.Listener, error) {
	switch {
	case f.SSLCertfile == "" && f.SSLKeyfile == "":
		return l, nil
	case f.SSLCertfile == "" || f.SSLKeyfile == "":
		return nil, errors.New("HTTPS needs both --ssl-certfile and --ssl-keyfile")
	}
	own, err := tls.LoadX509KeyPair(f.SSLCertfile, f.SSLKeyfile)
	if err != nil {
		return nil, fmt.Errorf("--ssl-certfile %s, --ssl-keyfile %s: %w", f.SSLCertfile, f.SSLKeyfile, err)
	}
	if err := certs.Private(f.SSLKeyfile); err != nil {
		return nil, fmt.Errorf("--ssl-keyfile: %w", err)
	}
	return &httpsListener{l, connlog.New(log, slog.LevelDebug), &tls.Config{
		Certificates: []tls.Certificate{own}, MinVersion: tls.VersionTLS12, // clients may be old
		NextProtos: []string{"http/1.1"},
	}}, nil
}

// scheme is that of the API's URLs.
func (f *apiTLSFlags) scheme() string {
	if f.SSLCertfile != "" {
		return "https"
	}
	return "http"
}

// httpsListener accepts connections that shake hands when they are first read, and
// logs those that cannot. The server behind it sees no TLS, and would not.
type httpsListener struct {
	net.Listener
	log    *connlog.Log
	config *tls.Config
}

func (l *httpsListener) Accept() (net.Conn, error) {
	conn, err := l.Listener.Accept()
	if err != nil {
		return nil, err
	}
	return &httpsConn{Conn: tls.Server(conn, l.config), plain: conn, log: l.log}, nil
}

// httpsConn is a connection of a client of the API.
type httpsConn struct {
	*tls.Conn
	plain net.Conn
	log   *connlog.Log
	once  sync.Once
	err   error
}

// Read shakes hands first, within the deadline that the reader has set.
func (c *httpsConn) Read(b []byte) (int, error) {
	c.once.Do(c.shake)
	if c.err != nil {
		return 0, c.err
	}
	return c.Conn.Read(b)
}

// shake shakes hands, and tells a client that speaks HTTP in its own words what it
// should speak.
func (c *httpsConn) shake() {
	if c.err = c.Conn.Handshake(); c.err == nil {
		return
	}
	var other tls.RecordHeaderError
	if errors.As(c.err, &other) && other.Conn != nil && plainHTTP(other.RecordHeader[:]) {
		c.err = errors.New("the client speaks HTTP, and this is HTTPS")
		_, _ = io.WriteString(c.plain, "HTTP/1.1 400 Bad Request\r\nContent-Type: text/plain; charset=utf-8\r\nConnection: close\r\n\r\n"+
			"This server speaks HTTPS: try https:// in place of http://.\n") // who has left need not hear it
	}
	c.log.Failed(c.RemoteAddr().String(), c.err.Error())
}

// plainHTTP says whether a connection begins as a request without TLS does.
func plainHTTP(start []byte) bool {
	for _, method := range []string{"GET /", "HEAD ", "POST ", "PUT /", "DELET", "OPTIO", "PATCH", "PRI *"} {
		if string(start) == method {
			return true
		}
	}
	return false
}
