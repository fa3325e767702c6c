package certs

import (
	"crypto"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/sha256"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"fmt"
	"math/big"
	"net"
	"regexp"
	"strings"
	"time"
)

// AuthorityYears is how long an authority's certificate is valid.
const AuthorityYears = 10

// skew is how much the clocks of members may differ from the issuer's.
const skew = time.Hour

// Authority signs the certificates of a cluster's members.
type Authority struct {
	Cert *x509.Certificate
	key  crypto.Signer
}

// NewAuthority makes an authority with a key of its own (ECDSA, P-256), valid
// for [AuthorityYears] from now.
func NewAuthority(now time.Time) (*Authority, error) {
	key, err := newKey()
	if err != nil {
		return nil, err
	}
	id, err := keyID(key.Public())
	if err != nil {
		return nil, err
	}
	t := &x509.Certificate{
		// The names of two authorities differ, so that a mix-up shows in an error.
		Subject:   pkix.Name{CommonName: ClusterName + " CA " + short(id)},
		NotBefore: now.Add(-skew), NotAfter: now.AddDate(AuthorityYears, 0, 0),
		SubjectKeyId: id, AuthorityKeyId: id,
		IsCA: true, BasicConstraintsValid: true, MaxPathLenZero: true,
		KeyUsage: x509.KeyUsageCertSign | x509.KeyUsageCRLSign,
	}
	cert, err := sign(t, t, key.Public(), key)
	if err != nil {
		return nil, fmt.Errorf("making the authority: %w", err)
	}
	return &Authority{cert, key}, nil
}

// Request is what a member's certificate is to say.
type Request struct {
	// Name is the member's: letters, digits, dots and hyphens.
	Name string
	// Hosts are further DNS names and IP addresses. Members need none for each
	// other; clients that check a server's address do.
	Hosts []string
	// NotAfter is the end of its validity; it does not outlive the authority's.
	NotAfter time.Time
}

var (
	memberName = regexp.MustCompile(`^[a-zA-Z0-9]([a-zA-Z0-9.-]{0,61}[a-zA-Z0-9])?$`)
	dnsName    = regexp.MustCompile(`^(\*\.)?[a-zA-Z0-9]([a-zA-Z0-9-]*[a-zA-Z0-9])?(\.[a-zA-Z0-9]([a-zA-Z0-9-]*[a-zA-Z0-9])?)*\.?$`)
)

// check refuses a request that makes no sense.
func (r *Request) check(now time.Time) error {
	if !memberName.MatchString(r.Name) {
		return fmt.Errorf("name %q: want 1 to 63 letters, digits, dots and hyphens, a letter or digit at both ends", r.Name)
	}
	for _, h := range r.Hosts {
		if net.ParseIP(h) == nil && (len(h) > 253 || !dnsName.MatchString(h)) {
			return fmt.Errorf("host %q: want a DNS name or an IP address, without a port", h)
		}
	}
	if !r.NotAfter.After(now) {
		return fmt.Errorf("validity of %q: it would end at %s, now is %s", r.Name, stamp(r.NotAfter), stamp(now))
	}
	return nil
}

// Issue makes a member's key and certificate, as PEM.
func (a *Authority) Issue(r Request, now time.Time) (cert, key []byte, err error) {
	if err := r.check(now); err != nil {
		return nil, nil, err
	}
	private, err := newKey()
	if err != nil {
		return nil, nil, err
	}
	t, err := a.template(r, private.Public(), now)
	if err != nil {
		return nil, nil, err
	}
	c, err := sign(t, a.Cert, private.Public(), a.key)
	if err != nil {
		return nil, nil, fmt.Errorf("signing the certificate of %q: %w", r.Name, err)
	}
	key, err = encodeKey(private)
	return encodeCert(c), key, err
}

func (a *Authority) template(r Request, public crypto.PublicKey, now time.Time) (*x509.Certificate, error) {
	id, err := keyID(public)
	if err != nil {
		return nil, err
	}
	t := &x509.Certificate{
		Subject:  pkix.Name{CommonName: r.Name},
		DNSNames: []string{ClusterName}, SubjectKeyId: id,
		NotBefore: now.Add(-skew), NotAfter: earlier(r.NotAfter, a.Cert.NotAfter),
		BasicConstraintsValid: true, KeyUsage: x509.KeyUsageDigitalSignature,
		ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth, x509.ExtKeyUsageClientAuth},
	}
	for _, h := range r.Hosts {
		if ip := net.ParseIP(h); ip != nil {
			t.IPAddresses = append(t.IPAddresses, ip)
		} else {
			t.DNSNames = append(t.DNSNames, strings.TrimSuffix(h, "."))
		}
	}
	return t, nil
}

func earlier(a, b time.Time) time.Time {
	if b.Before(a) {
		return b
	}
	return a
}

func newKey() (*ecdsa.PrivateKey, error) {
	return ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
}

// keyID is a key's identifier: RFC 7093, method 1.
func keyID(public crypto.PublicKey) ([]byte, error) {
	der, err := x509.MarshalPKIXPublicKey(public)
	if err != nil {
		return nil, err
	}
	sum := sha256.Sum256(der)
	return sum[:20], nil
}

// sign completes a template by a serial number and signs it.
func sign(t, parent *x509.Certificate, public crypto.PublicKey, key crypto.Signer) (*x509.Certificate, error) {
	serial := make([]byte, 16)
	_, _ = rand.Read(serial) // never fails
	t.SerialNumber = new(big.Int).SetBytes(serial)
	t.SerialNumber.SetBit(t.SerialNumber, 127, 0) // RFC 5280: at most 20 bytes, and positive
	der, err := x509.CreateCertificate(rand.Reader, t, parent, public, key)
	if err != nil {
		return nil, err
	}
	return x509.ParseCertificate(der)
}

func encodeCert(c *x509.Certificate) []byte {
	return pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: c.Raw})
}

func encodeKey(key crypto.Signer) ([]byte, error) {
	der, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		return nil, err
	}
	return pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: der}), nil
}
