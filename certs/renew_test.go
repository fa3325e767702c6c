package certs_test

import (
	"os"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/tandem-moe/tandem/certs"
)

// TestRenewal: files that are replaced are used for the next connection, in both
// roles, and files that are of no use are not.
func TestRenewal(t *testing.T) {
	f := folder(t)
	peer := member(t, f, "peer", time.Now())
	then := time.Now().Add(-90 * time.Minute)
	i := member(t, f, "a", then)
	require.ErrorIs(t, i.Valid(time.Now()), certs.ErrExpired)
	_, accepted := meet(t, dialler(i), acceptor(peer))
	require.ErrorContains(t, accepted, "by this end's clock")

	require.NoError(t, os.WriteFile(i.Cert, []byte("half a file"), 0o600))
	err := i.Valid(time.Now())
	require.ErrorIs(t, err, certs.ErrExpired)
	require.ErrorIs(t, err, certs.ErrUnusable)
	require.ErrorContains(t, err, "the files have changed, but")
	require.Equal(t, "a", i.Leaf().Subject.CommonName, "the old one stays in use")

	files, err := f.Issue(certs.Request{Name: "a", NotAfter: time.Now().Add(time.Hour)}, time.Now(), true)
	require.NoError(t, err)
	require.Equal(t, i.Files, files)
	require.NoError(t, i.Valid(time.Now()))
	for _, ends := range [][2]*certs.Identity{{i, peer}, {peer, i}} {
		dialled, accepted := meet(t, dialler(ends[0]), acceptor(ends[1]))
		require.NoError(t, dialled)
		require.NoError(t, accepted)
	}
	require.NoError(t, os.Remove(i.Key))
	require.NoError(t, i.Valid(time.Now()), "a file that is gone")
}

// TestRenewalByAnotherAuthority is none: the member would not be known any more.
func TestRenewalByAnotherAuthority(t *testing.T) {
	i := member(t, folder(t), "a", time.Now())
	before := i.Leaf()
	other := issue(t, folder(t), "a", time.Now())
	for from, to := range map[string]string{other.Cert: i.Cert, other.Key: i.Key} {
		text, err := os.ReadFile(from)
		require.NoError(t, err)
		require.NoError(t, os.WriteFile(to, text, 0o600))
	}
	require.Equal(t, before, i.Leaf())
	err := i.Valid(before.NotAfter.Add(time.Second))
	require.ErrorContains(t, err, "certificate signed by unknown authority")
}
