package certs

import (
	"crypto/x509"
	"errors"
	"fmt"
	"strings"
	"time"
)

// authorities are the certificates of a file that may sign members': one, or two
// while it is being replaced.
type authorities struct {
	file  string
	certs []*x509.Certificate
}

func readAuthorities(name string) (*authorities, error) {
	all, err := readCerts(name)
	if err != nil {
		return nil, err
	}
	for _, c := range all {
		if !c.IsCA {
			return nil, fmt.Errorf("%s: %w as an authority: %s is a member's certificate", name, ErrUnusable,
				describe(c))
		}
	}
	return &authorities{name, all}, nil
}

func pool(all []*x509.Certificate) *x509.CertPool {
	p := x509.NewCertPool()
	for _, c := range all {
		p.AddCert(c)
	}
	return p
}

// names tells them apart in errors.
func (a *authorities) names() string {
	var names []string
	for _, c := range a.certs {
		names = append(names, describe(c))
	}
	return strings.Join(names, " and ")
}

// admit checks the certificate of a file as peers will, whether they are dialled
// or dial. The others of the chain are between it and the authority.
func (a *authorities) admit(file string, chain []*x509.Certificate, now time.Time) error {
	if err := valid(file, chain[0], now); err != nil {
		return err
	}
	for _, usage := range []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth, x509.ExtKeyUsageClientAuth} {
		_, err := chain[0].Verify(x509.VerifyOptions{
			DNSName: ClusterName, Roots: pool(a.certs), Intermediates: pool(chain[1:]),
			CurrentTime: now, KeyUsages: []x509.ExtKeyUsage{usage},
		})
		if err != nil {
			return a.refusal(file, chain[0], err, now)
		}
	}
	return nil
}

// refusal names the files of a certificate that peers would refuse.
func (a *authorities) refusal(file string, c *x509.Certificate, err error, now time.Time) error {
	var unknown x509.UnknownAuthorityError
	var host x509.HostnameError
	switch {
	case errors.As(err, &unknown):
		return fmt.Errorf("%s: %w: %s is signed by %s, but %s has %s: %w", file, ErrUnusable, describe(c), issuerOf(c),
			a.file, a.names(), err)
	case errors.As(err, &host):
		return fmt.Errorf("%s: %w: members' certificates are for the DNS name %q, %s is for %q: %w", file, ErrUnusable,
			ClusterName, describe(c), c.DNSNames, err)
	}
	for _, c := range a.certs {
		if err := valid(a.file, c, now); err != nil {
			return err
		}
	}
	return fmt.Errorf("%s: %w: %w", file, ErrUnusable, err)
}
