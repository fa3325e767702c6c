package certs

import (
	"crypto"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"fmt"
)

// maxCerts bounds the certificates of one file.
const maxCerts = 64

// parseCerts reads all certificates of a PEM text, one at least. Text between
// the blocks is a comment, as in other tools' files; a block of another kind is
// a mistake.
func parseCerts(text []byte) ([]*x509.Certificate, error) {
	var all []*x509.Certificate
	for {
		var b *pem.Block
		if b, text = pem.Decode(text); b == nil {
			break
		}
		if b.Type != "CERTIFICATE" {
			return nil, fmt.Errorf("PEM block %d is %q, want CERTIFICATE", len(all)+1, b.Type)
		}
		if len(all) == maxCerts {
			return nil, fmt.Errorf("more than %d certificates", maxCerts)
		}
		c, err := x509.ParseCertificate(b.Bytes)
		if err != nil {
			return nil, fmt.Errorf("certificate %d: %w", len(all)+1, err)
		}
		all = append(all, c)
	}
	if len(all) == 0 {
		return nil, errors.New("no PEM block of a certificate")
	}
	return all, nil
}

// parseKey reads a private key: PKCS #8, or what older tools write.
func parseKey(text []byte) (crypto.Signer, error) {
	b, _ := pem.Decode(text)
	if b == nil {
		return nil, errors.New("no PEM block of a private key")
	}
	var key any
	var err error
	switch b.Type {
	case "PRIVATE KEY":
		key, err = x509.ParsePKCS8PrivateKey(b.Bytes)
	case "EC PRIVATE KEY":
		key, err = x509.ParseECPrivateKey(b.Bytes)
	case "RSA PRIVATE KEY":
		key, err = x509.ParsePKCS1PrivateKey(b.Bytes)
	default:
		return nil, fmt.Errorf("PEM block is %q, want PRIVATE KEY (without a passphrase)", b.Type)
	}
	if err != nil {
		return nil, fmt.Errorf("private key: %w", err)
	}
	signer, ok := key.(crypto.Signer)
	if !ok {
		return nil, fmt.Errorf("private key of type %T cannot sign", key)
	}
	return signer, nil
}

// readCerts reads a file of certificates.
func readCerts(name string) ([]*x509.Certificate, error) {
	text, err := readFile(name)
	if err != nil {
		return nil, err
	}
	all, err := parseCerts(text)
	if err != nil {
		return nil, fmt.Errorf("%s: %w as certificates: %w", name, ErrUnusable, err)
	}
	return all, nil
}

// readKey reads the private key of a certificate, from a file that nobody else may
// read.
func readKey(name string, cert *x509.Certificate, certName string) (crypto.Signer, error) {
	text, err := readFile(name)
	if err != nil {
		return nil, err
	}
	key, err := parseKey(text)
	if err != nil {
		return nil, fmt.Errorf("%s: %w as a key: %w", name, ErrUnusable, err)
	}
	if err := Private(name); err != nil {
		return nil, err
	}
	public, ok := cert.PublicKey.(interface{ Equal(crypto.PublicKey) bool })
	if !ok || !public.Equal(key.Public()) {
		return nil, fmt.Errorf("%s: %w: it is not the key of the certificate %s, %s", name, ErrUnusable, certName,
			describe(cert))
	}
	return key, nil
}
