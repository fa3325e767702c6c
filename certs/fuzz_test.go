package certs

import (
	"bytes"
	"crypto/x509"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

// FuzzCertificates: what is accepted is certificates, a bounded number, and
// nothing of them is lost.
func FuzzCertificates(f *testing.F) {
	a, err := NewAuthority(time.Now())
	require.NoError(f, err)
	member, key, err := a.Issue(Request{Name: "a", NotAfter: time.Now().Add(time.Hour)}, time.Now())
	require.NoError(f, err)
	both := append(encodeCert(a.Cert), member...)
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
	key, err := newKey()
	require.NoError(f, err)
	text, err := encodeKey(key)
	require.NoError(f, err)
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
