package certs

import (
	"crypto/tls"
	"crypto/x509"
	"fmt"
	"os"
	"sync"
	"time"
)

// Identity is what a member shows to others, and by what it knows them. A nil
// Identity is that of a cluster without TLS.
//
// The certificate and its key are read again when their files change, so that
// they can be renewed while the member works; connections that are there stay.
// Files that cannot be used leave the old ones in use. The authority's file is
// read once.
type Identity struct {
	Files

	known  *authorities
	config *tls.Config

	mu      sync.Mutex
	own     *tls.Certificate
	version version
	problem error // of files that are newer than own
}

// Load reads a member's files and checks them as a peer would: that they are
// valid now, that the authority has signed the certificate, and that it is a
// member's. So a mistake is found here, with the file's name, and not at the
// first connection.
func Load(f Files, now time.Time) (*Identity, error) {
	known, err := readAuthorities(f.CA)
	if err != nil {
		return nil, err
	}
	i := &Identity{Files: f, known: known, version: versionOf(f)}
	if i.own, err = i.read(now); err != nil {
		return nil, err
	}
	i.config = i.newConfig()
	return i, nil
}

// read reads the member's certificate and key.
func (i *Identity) read(now time.Time) (*tls.Certificate, error) {
	chain, err := readCerts(i.Cert)
	if err != nil {
		return nil, err
	}
	key, err := readKey(i.Key, chain[0], i.Cert)
	if err != nil {
		return nil, err
	}
	if err := i.known.admit(i.Cert, chain, now); err != nil {
		return nil, err
	}
	own := &tls.Certificate{PrivateKey: key, Leaf: chain[0]}
	for _, link := range chain {
		own.Certificate = append(own.Certificate, link.Raw)
	}
	return own, nil
}

// version tells whether files have changed: when they were written, in
// nanoseconds, and their sizes.
type version [2]struct{ written, size int64 }

func versionOf(f Files) (v version) {
	for i, name := range []string{f.Cert, f.Key} {
		if info, err := os.Stat(name); err == nil {
			v[i].written, v[i].size = info.ModTime().UnixNano(), info.Size()
		}
	}
	return v
}

// show returns the certificate that is to be shown now.
func (i *Identity) show(now time.Time) *tls.Certificate {
	i.mu.Lock()
	defer i.mu.Unlock()
	v := versionOf(i.Files)
	if v == i.version {
		return i.own
	}
	i.version = v
	fresh, err := i.read(now)
	if i.problem = err; err == nil {
		i.own = fresh
	}
	return i.own
}

// newConfig serves both roles.
func (i *Identity) newConfig() *tls.Config {
	known := pool(i.known.certs)
	return &tls.Config{
		MinVersion: tls.VersionTLS13,
		// Dialling. The certificate is shown whatever authorities the other end names,
		// so that it can say what is wrong with it.
		RootCAs: known, ServerName: ClusterName,
		GetClientCertificate: func(*tls.CertificateRequestInfo) (*tls.Certificate, error) {
			return i.show(time.Now()),
				nil
		},
		// Accepting.
		ClientCAs: known, ClientAuth: tls.RequireAndVerifyClientCert,
		GetCertificate:         func(*tls.ClientHelloInfo) (*tls.Certificate, error) { return i.show(time.Now()), nil },
		SessionTicketsDisabled: true, // connections are few and long
		// The name is checked of those who dial, too: their authority may be a
		// company's, which issues certificates for other ends.
		VerifyConnection: func(s tls.ConnectionState) error {
			return s.PeerCertificates[0].VerifyHostname(ClusterName)
		},
	}
}

// TLS is the configuration, for both roles: to dial and to accept. It is nil
// without an identity, and not to be changed.
func (i *Identity) TLS() *tls.Config {
	if i == nil {
		return nil
	}
	return i.config
}

// Leaf is the member's certificate.
func (i *Identity) Leaf() *x509.Certificate { return i.show(time.Now()).Leaf }

// Valid checks that the member's certificate has not ended since it was loaded,
// and says why it has not been renewed where that was tried.
func (i *Identity) Valid(now time.Time) error {
	if i == nil {
		return nil
	}
	err := valid(i.Cert, i.show(now).Leaf, now)
	i.mu.Lock()
	defer i.mu.Unlock()
	if err != nil && i.problem != nil {
		return fmt.Errorf("%w; the files have changed, but: %w", err, i.problem)
	}
	return err
}
