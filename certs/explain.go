package certs

import (
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"net"
)

// Explain adds to an error of a connection what this end knows of it: whose
// certificate was refused, by which file. Other errors, and nil, stay as they
// are.
func (i *Identity) Explain(err error) error {
	if i == nil || err == nil {
		return err
	}
	var theirs *tls.CertificateVerificationError
	var plain tls.RecordHeaderError
	var remote *net.OpError
	switch {
	case errors.As(err, &theirs):
		return fmt.Errorf("%w: %s", err, i.refusal(theirs))
	case errors.As(err, &plain):
		return fmt.Errorf("%w: the peer speaks without TLS, this end with %s", err, i.Cert)
	case errors.As(err, &remote) && remote.Op == "remote error":
		own := i.Leaf()
		return fmt.Errorf("%w: the peer refuses this end, whose certificate %s is that of %s, signed by %s, valid until %s",
			err, i.Cert, describe(own), issuerOf(own), stamp(own.NotAfter))
	}
	return err
}

// Refused reports whether an error is that of ends that do not accept each
// other's certificates.
func Refused(err error) bool {
	var theirs *tls.CertificateVerificationError
	var remote *net.OpError
	return errors.As(err, &theirs) || errors.As(err, &remote) && remote.Op == "remote error"
}

// refusal says why this end refuses the peer's certificate.
func (i *Identity) refusal(e *tls.CertificateVerificationError) string {
	if len(e.UnverifiedCertificates) == 0 {
		return "the peer shows no certificate"
	}
	c := e.UnverifiedCertificates[0]
	peer := "the peer's certificate, that of " + describe(c)
	var unknown x509.UnknownAuthorityError
	var host x509.HostnameError
	var invalid x509.CertificateInvalidError
	switch {
	case errors.As(e, &unknown):
		return fmt.Sprintf("%s, is signed by %s; this end knows %s, from %s", peer, issuerOf(c), i.known.names(), i.CA)
	case errors.As(e, &host):
		return fmt.Sprintf("%s, is for %q; members' are for %q", peer, c.DNSNames, ClusterName)
	case errors.As(e, &invalid) && invalid.Reason == x509.Expired:
		return fmt.Sprintf("%s, is valid from %s to %s by this end's clock", peer, stamp(c.NotBefore),
			stamp(c.NotAfter))
	}
	return peer + ", is refused by " + i.CA
}
