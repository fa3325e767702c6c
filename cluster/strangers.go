package cluster

import (
	"fmt"
	"net"
	"net/http"
	"strings"
)

// controlPort is what strangers hear who speak HTTP to a front end's control port.
const controlPort = "This is Tandem's control port: the nodes of a cluster join here."

// Stranger answers requests for anything but the cluster's protocols, such as a
// browser's or curl's. api is where the API is, empty where nobody is to hear that.
func Stranger(api string) http.Handler {
	text := controlPort
	if api != "" {
		text += " The API is at " + api
	}
	return http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Connection", "close")
		http.Error(w, text, http.StatusNotFound)
	})
}

// ListenPlain is for a control port without TLS: whoever speaks TLS to it hears, in
// HTTP as such clients expect it of a port without TLS, that it has none. failed is
// called with who it was and why.
func ListenPlain(l net.Listener, failed func(from net.Addr, why error)) net.Listener {
	return &plainListener{l, failed}
}

type plainListener struct {
	net.Listener
	failed func(from net.Addr, why error)
}

func (l *plainListener) Accept() (net.Conn, error) {
	conn, err := l.Listener.Accept()
	if err != nil {
		return nil, err
	}
	return &sniffed{Conn: conn, refusal: func(start []byte) ([]byte, error) {
		text, why := refuseTLS(start)
		if why != nil {
			l.failed(conn.RemoteAddr(), why)
		}
		return text, why
	}}, nil
}

// errTLS ends a connection whose other end speaks TLS where there is none.
var errTLS = fmt.Errorf("the other end speaks TLS, and this port has none")

// refuseTLS is what a connection hears that begins as TLS does, where it should not.
func refuseTLS(start []byte) ([]byte, error) {
	if start[0] != handshakeRecord {
		return nil, nil
	}
	return badRequest(controlPort + " It has no TLS, and you speak it: a node that joins needs no --tls, and its address no https://."), errTLS
}

// refusePlain is what a connection hears that does not begin as TLS does: in
// HTTP/1's words where a request of HTTP/1 began it, in HTTP/2's else, as nodes are.
func refusePlain(start []byte) ([]byte, error) {
	switch {
	case start[0] == handshakeRecord:
		return nil, nil
	case beginsHTTP1(start):
		return badRequest(controlPort + " It needs TLS, and you speak without it."), ErrPlain
	}
	return goAway(ErrPlain.Error()), ErrPlain
}

// beginsHTTP1 says whether bytes begin a request of HTTP/1: with a method, in
// capitals, and a blank. HTTP/2 begins with PRI.
func beginsHTTP1(b []byte) bool {
	method, _, blank := strings.Cut(string(b[:min(len(b), 16)]), " ")
	if !blank || method == "" || method == "PRI" {
		return false
	}
	return strings.Trim(method, "ABCDEFGHIJKLMNOPQRSTUVWXYZ") == ""
}

// badRequest is an answer of HTTP/1 that ends the connection.
func badRequest(text string) []byte {
	return fmt.Appendf(nil, "HTTP/1.1 400 Bad Request\r\nContent-Type: text/plain; charset=utf-8\r\nContent-Length: %d\r\nConnection: close\r\n\r\n%s\n", len(text)+1, text)
}
