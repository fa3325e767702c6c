package certs

import (
	"bytes"
	"crypto/ed25519"
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"math/big"
	"slices"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

// seedCerts are the same in every process, so that the fuzzer's workers agree: an
// authority's certificate, a member's and the member's key.
func seedCerts(f *testing.F) (authority, member, key []byte) {
	f.Helper()
	private := ed25519.NewKeyFromSeed(make([]byte, ed25519.SeedSize))
	t := &x509.Certificate{
		SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: "CA"}, IsCA: true, BasicConstraintsValid: true,
		NotBefore: time.Unix(0, 0), NotAfter: time.Unix(1<<32, 0), DNSNames: []string{ClusterName},
	}
	for _, text := range []*[]byte{&authority, &member} {
		der, err := x509.CreateCertificate(rand.Reader, t, t, private.Public(), private)
		require.NoError(f, err)
		*text = pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der})
		t.IsCA = false
	}
	key, err := encodeKey(private)
	require.NoError(f, err)
	return authority, member, key
}

// FuzzCertificates: what is accepted is certificates, a bounded number, and
// nothing of them is lost.
func FuzzCertificates(f *testing.F) {
	authority, member, key := seedCerts(f)
	both := slices.Concat(authority, member)
	for _, seed := range [][]byte{nil, both, both[:len(both)-40], member[:20], key, bytes.Repeat(member, 3)} {
		f.Add(seed)
	}
	f.Fuzz(func(t *testing.T, text []byte) {
		all, err := parseCerts(text)
		if err != nil {
			return
		}
		require.NotEmpty(t, all)
		require.LessOrEqual(t, len(all), maxCerts)
		var again []byte
		size := 0
		for _, c := range all {
			again = append(again, encodeCert(c)...)
			size += len(c.Raw)
		}
		require.LessOrEqual(t, size, len(text), "what is kept is no more than what came")
		same, err := parseCerts(again)
		require.NoError(t, err)
		for i := range all {
			require.True(t, all[i].Equal(same[i]))
		}
	})
}

// FuzzKey: a key that is accepted can be written and read again.
func FuzzKey(f *testing.F) {
	_, _, text := seedCerts(f)
	f.Add(text)
	f.Add(text[:len(text)/2])
	f.Add(bytes.Replace(text, []byte("PRIVATE"), []byte("EC PRIVATE"), 2))
	f.Add([]byte(nil))
	f.Fuzz(func(t *testing.T, text []byte) {
		key, err := parseKey(text)
		if err != nil {
			return
		}
		again, err := encodeKey(key)
		require.NoError(t, err)
		same, err := parseKey(again)
		require.NoError(t, err)
		a, err := x509.MarshalPKIXPublicKey(key.Public())
		require.NoError(t, err)
		b, err := x509.MarshalPKIXPublicKey(same.Public())
		require.NoError(t, err)
		require.Equal(t, a, b)
	})
}
