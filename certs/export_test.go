package certs

import (
	"crypto"
	"crypto/tls"
	"crypto/x509"
	"os"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

// ForTest issues a certificate that the package itself would not.
func ForTest(t *testing.T, a *Authority, change func(*x509.Certificate)) tls.Certificate {
	t.Helper()
	key, err := newKey()
	require.NoError(t, err)
	template, err := a.template(Request{Name: "other", NotAfter: time.Now().Add(time.Hour)}, key.Public(), time.Now())
	require.NoError(t, err)
	change(template)
	c, err := sign(template, a.Cert, key.Public(), a.key)
	require.NoError(t, err)
	return tls.Certificate{Certificate: [][]byte{c.Raw}, PrivateKey: key, Leaf: c}
}

// WriteForTest writes such a certificate and its key in place of a member's.
func WriteForTest(t *testing.T, f Files, c tls.Certificate) {
	t.Helper()
	key, err := encodeKey(c.PrivateKey.(crypto.Signer))
	require.NoError(t, err)
	require.NoError(t, os.WriteFile(f.Key, key, 0o600))
	require.NoError(t, os.WriteFile(f.Cert, encodeCert(c.Leaf), 0o600))
}
