package main

import (
	"crypto/tls"
	"errors"
	"fmt"
	"net"

	"github.com/tandem-moe/tandem/certs"
)

// apiTLSFlags secure the API for its clients. The names are vLLM's.
type apiTLSFlags struct {
	SSLCertfile string `help:"Serve the API by HTTPS, with this certificate (PEM). Default: HTTP." name:"ssl-certfile" placeholder:"FILE"`
	SSLKeyfile  string `help:"The private key of --ssl-certfile." name:"ssl-keyfile" placeholder:"FILE"`
}

// secure puts TLS on the API's listener where the flags ask for it.
func (f *apiTLSFlags) secure(l net.Listener) (net.Listener, error) {
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
	return tls.NewListener(l, &tls.Config{
		Certificates: []tls.Certificate{own}, MinVersion: tls.VersionTLS12, // clients may be old
		NextProtos: []string{"http/1.1"},
	}), nil
}
