package cluster

import (
	"fmt"
	"net"
	"net/http"
	"strings"
)

// controlPort is the answer to strangers that speak HTTP to a front end's control port.
const controlPort = "This is Tandem's control port: the nodes of a cluster join here."

// Stranger answers requests other than the cluster's protocols, such as a browser's or
// curl's. api is the API's URL, or empty where strangers are not to be told it.
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

// ListenPlain is for a control port without TLS. A client that speaks TLS gets an
// HTTP/1 answer in plain text that says so: TLS clients recognize it as a port without
// TLS. failed is called with the client's address and the reason.
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

// errTLS ends a connection whose other end speaks TLS to a port without TLS.
var errTLS = fmt.Errorf("the other end speaks TLS, and this port has none")

// refuseTLS returns the answer and the reason to refuse a connection that begins as TLS
// does, and nothing for others.
func refuseTLS(start []byte) ([]byte, error) {
	if start[0] != handshakeRecord {
		return nil, nil
	}
	return badRequest(controlPort + " It has no TLS, and you speak it: a node that joins needs no --tls, and its address no https://."), errTLS
}

// refusePlain returns the answer and the reason to refuse a connection that does not
// begin as TLS does, and nothing for others. The answer is in HTTP/1 where a request of
// HTTP/1 began the connection, else in HTTP/2, which nodes speak.
func refusePlain(start []byte) ([]byte, error) {
	switch {
	case start[0] == handshakeRecord:
		return nil, nil
	case beginsHTTP1(start):
		return badRequest(controlPort + " It needs TLS, and you speak without it."), ErrPlain
	}
	return goAway(ErrPlain.Error()), ErrPlain
}

// beginsHTTP1 says whether bytes begin a request of HTTP/1: a method in capitals and a
// blank, but not PRI, with which HTTP/2 begins.
func beginsHTTP1(b []byte) bool {
	method, _, blank := strings.Cut(string(b[:min(len(b), 16)]), " ")
	if !blank || method == "" || method == "PRI" {
		return false
	}
	return strings.Trim(method, "ABCDEFGHIJKLMNOPQRSTUVWXYZ") == ""
}

// badRequest is an HTTP/1 answer that ends the connection.
func badRequest(text string) []byte {
	return fmt.Appendf(nil, "HTTP/1.1 400 Bad Request\r\nContent-Type: text/plain; charset=utf-8\r\nContent-Length: %d\r\nConnection: close\r\n\r\n%s\n", len(text)+1, text)
}
