package certs

import (
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"strings"
	"time"
)

// Identity is what a member shows to others, and by what it knows them. A nil
// Identity is that of a cluster without TLS.
type Identity struct {
	Files
	// Leaf is the member's certificate.
	Leaf *x509.Certificate

	authorities []*x509.Certificate
	config      *tls.Config
}

// Load reads a member's files and checks them as a peer would: that they are
// valid now, that the authority has signed the certificate, and that it is a
// member's. So a mistake is found here, with the file's name, and not at the
// first connection.
func Load(f Files, now time.Time) (*Identity, error) {
	authorities, err := readAuthorities(f.CA)
	if err != nil {
		return nil, err
	}
	chain, err := readCerts(f.Cert)
	if err != nil {
		return nil, err
	}
	key, err := readKey(f.Key, chain[0], f.Cert)
	if err != nil {
		return nil, err
	}
	i := &Identity{Files: f, Leaf: chain[0], authorities: authorities}
	if err := i.check(chain[1:], now); err != nil {
		return nil, err
	}
	i.config = newConfig(pool(authorities), certificate(chain, key))
	return i, nil
}

func pool(all []*x509.Certificate) *x509.CertPool {
	p := x509.NewCertPool()
	for _, c := range all {
		p.AddCert(c)
	}
	return p
}

func certificate(chain []*x509.Certificate, key any) tls.Certificate {
	c := tls.Certificate{PrivateKey: key, Leaf: chain[0]}
	for _, link := range chain {
		c.Certificate = append(c.Certificate, link.Raw)
	}
	return c
}

// check verifies the member's own certificate in both roles.
func (i *Identity) check(between []*x509.Certificate, now time.Time) error {
	if err := valid(i.Cert, i.Leaf, now); err != nil {
		return err
	}
	for _, usage := range []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth, x509.ExtKeyUsageClientAuth} {
		_, err := i.Leaf.Verify(x509.VerifyOptions{
			DNSName: ClusterName, Roots: pool(i.authorities), Intermediates: pool(between),
			CurrentTime: now, KeyUsages: []x509.ExtKeyUsage{usage},
		})
		if err != nil {
			return i.refused(err, now)
		}
	}
	return nil
}

// refused names the files of a certificate that peers would refuse.
func (i *Identity) refused(err error, now time.Time) error {
	var unknown x509.UnknownAuthorityError
	var host x509.HostnameError
	switch {
	case errors.As(err, &unknown):
		return fmt.Errorf("%s: %w: %s is signed by %s, but %s has %s: %w", i.Cert, ErrUnusable, describe(i.Leaf), issuerOf(i.Leaf), i.CA, i.authorityNames(), err)
	case errors.As(err, &host):
		return fmt.Errorf("%s: %w: members' certificates are for the DNS name %q, %s is for %q: %w", i.Cert, ErrUnusable, ClusterName, describe(i.Leaf), i.Leaf.DNSNames, err)
	}
	for _, c := range i.authorities {
		if err := valid(i.CA, c, now); err != nil {
			return err
		}
	}
	return fmt.Errorf("%s: %w: %w", i.Cert, ErrUnusable, err)
}

// Valid checks that the member's certificate has not ended since it was loaded.
func (i *Identity) Valid(now time.Time) error {
	if i == nil {
		return nil
	}
	return valid(i.Cert, i.Leaf, now)
}

func (i *Identity) authorityNames() string {
	var names []string
	for _, c := range i.authorities {
		names = append(names, describe(c))
	}
	return strings.Join(names, " and ")
}

// newConfig serves both roles.
func newConfig(authorities *x509.CertPool, own tls.Certificate) *tls.Config {
	return &tls.Config{
		MinVersion:   tls.VersionTLS13,
		Certificates: []tls.Certificate{own},
		// Dialling. The certificate is shown whatever authorities the other end names,
		// so that it can say what is wrong with it.
		RootCAs: authorities, ServerName: ClusterName,
		GetClientCertificate: func(*tls.CertificateRequestInfo) (*tls.Certificate, error) { return &own, nil },
		// Accepting.
		ClientCAs: authorities, ClientAuth: tls.RequireAndVerifyClientCert,
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
